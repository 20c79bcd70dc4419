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


def rmsprop(w: Array, square: Array, velocity: Array, dw: Array, rate: float, keep: float, take: float,
            momentum: float = 0.0, epsilon: float = 1e-7, decay: float = 0.0) -> tuple[Array, Array, Array]:
    """RMSprop (keep = rho, take = 1 - rho) and Adagrad (keep = take = 1), with L2 decay.

    Returns
    -------
    w, square, velocity : the new weights, mean or sum of squared gradients, and velocity

    References
    ----------
    T. Tieleman, G. Hinton, "Neural networks for machine learning", lecture 6.5, 2012. J. Duchi, E. Hazan, Y. Singer,
    "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """
    gradient = dw + decay * w
    square = keep * square + take * gradient * gradient
    velocity = momentum * velocity + gradient / (square**0.5 + epsilon)
    return w - rate * velocity, square, velocity


def lamb(w: Array, m: Array, v: Array, dw: Array, step: int, rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
         epsilon: float = 1e-7, decay: float = 0.0) -> tuple[Array, Array, Array]:
    """Adam's step and the decay, scaled to the norm of the weights; arguments and results as for `adam`.

    References
    ----------
    Y. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, algorithm 2.
    """
    m = beta1 * m + (1 - beta1) * dw
    v = beta2 * v + (1 - beta2) * dw * dw
    direction = m / (1 - beta1**step) / ((v / (1 - beta2**step)) ** 0.5 + epsilon) + decay * w
    norms = math.sqrt((w * w).sum()), math.sqrt((direction * direction).sum())
    ratio = norms[0] / norms[1] if all(norms) else 1.0
    return w - rate * ratio * direction, m, v


def mean_gradient(gradients: list[Array]) -> Array:
    """What an update takes where the gradients of several batches are accumulated."""
    total = gradients[0]
    for gradient in gradients[1:]:
        total = total + gradient
    return total / len(gradients)


def moving_average(mean: Array, w: Array, momentum: float) -> Array:
    """The exponential moving average of weights after an update."""
    return momentum * mean + (1 - momentum) * w


def clip_by_norm(gradients: list[Array], bound: float) -> list[Array]:
    """The gradients, scaled down so that the norm of all of them together is at most ``bound``."""
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    return [g * (bound / max(norm, bound)) for g in gradients]
