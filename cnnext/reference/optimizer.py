"""One step of an optimizer. State goes in and comes out; nothing is changed in place."""

from __future__ import annotations

import math

from cnnext.reference._window import Array, require


def sgd(
    w: Array,
    velocity: Array,
    dw: Array,
    rate: float,
    momentum: float = 0.0,
    decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Array, Array]:
    """Stochastic gradient descent with momentum and L2 decay.

    Returns
    -------
    w, velocity : the new weights and velocity

    References
    ----------
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013, with the
    velocity in units of the gradient and Nesterov's look-ahead taken at the current weights.
    """
    gradient = dw + decay * w
    velocity = momentum * velocity + gradient
    step = gradient + momentum * velocity if nesterov else velocity
    return w - rate * step, velocity


def adam(
    w: Array,
    m: Array,
    v: Array,
    dw: Array,
    step: int,
    rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    decay: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Adam with decoupled weight decay.

    Parameters
    ----------
    w, m, v, dw : weights, first and second moment, gradient: arrays of one shape
    step : 1 for the first step
    decay : share of the weights, times ``rate``, taken away in a step

    Returns
    -------
    w, m, v : the new weights and moments

    Raises
    ------
    ValueError
        If ``step`` is below 1.

    References
    ----------
    D. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1, with both bias corrections
    folded into the rate and epsilon. I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", 2019.
    """
    require(step >= 1, "adam", "step", "be at least 1", step)
    m = beta1 * m + (1 - beta1) * dw
    v = beta2 * v + (1 - beta2) * dw * dw
    correction = math.sqrt(1 - beta2**step)
    update = rate * correction / (1 - beta1**step) * m / (v**0.5 + epsilon * correction)
    return w - rate * decay * w - update, m, v
