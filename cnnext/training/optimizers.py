"""Optimizers: how parameters follow their gradients. Each gives the node that updates one parameter in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import FLOAT32, Graph, Node, Parameter, Shape, Value, constant
from cnnext.layers._rows import row_step
from cnnext.layers.activation import Clip
from cnnext.layers.attributes import as_number
from cnnext.layers.elementary import Sqrt
from cnnext.layers.elementwise import Divide, Maximum, add, multiply
from cnnext.layers.layer import Layer
from cnnext.training.losses import lower_sum_squares
from cnnext.training.schedules import Schedule, as_rate, rate_at

if TYPE_CHECKING:
    from cnnext.graph.memory import View
    from cnnext.graph.plan import PlanBuilder


class Optimizer(ABC):
    """Base class of the optimizers.

    Parameters
    ----------
    learning_rate : float or function of the step
        Greater than 0; may be set to another value at any time, also in the middle of training. A function, such as
        ``CosineDecay``, gets the number of updates made so far and gives the rate of the next one, at least 0.
    weight_decay : float
        At least 0.
    clipnorm : float, optional
        Greater than 0: a gradient whose norm is greater is scaled down to it, each parameter's by itself.
    global_clipnorm : float, optional
        The same for the norm of the gradients of all parameters together.
    clipvalue : float, optional
        Greater than 0: elements of gradients are cut off at ``-clipvalue`` and ``clipvalue``. One of the three at most.

    Attributes
    ----------
    steps : int
        Updates made so far.
    """

    n_hyper: ClassVar[int] = 1                  # numbers that change from step to step
    state_names: tuple[str, ...] = ()           # what is kept for each parameter
    state_start: float = 0.0                    # and its value before the first step
    latest_rate: float = 0.0                    # the learning rate that was asked for last: of the step that is over

    def __init__(self, learning_rate: float | Schedule, weight_decay: float, clipnorm: float | None = None,
                 global_clipnorm: float | None = None, clipvalue: float | None = None):
        self.learning_rate = learning_rate
        self.weight_decay = as_number(type(self).__name__, "weight_decay", weight_decay, minimum=0)
        given = {"clipnorm": clipnorm, "global_clipnorm": global_clipnorm, "clipvalue": clipvalue}
        self.clipping = {name: as_number(type(self).__name__, name, bound, above=0) for name, bound in given.items()
                         if bound is not None}
        if len(self.clipping) > 1:
            first, second = list(self.clipping)[:2]
            raise ValueError(message(type(self).__name__, second, f"be None where {first} is given", given[second]))
        self.steps = 0
        self._states: dict[Parameter, list[Parameter]] = {}

    def __repr__(self) -> str:
        named = {"learning_rate": self._learning_rate, **self.settings(), **self.clipping}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in named.items())})"

    @property
    def learning_rate(self) -> float:
        """Size of the next step."""
        self.latest_rate = rate_at(type(self).__name__, self._learning_rate, self.steps)
        return self.latest_rate

    @learning_rate.setter
    def learning_rate(self, value: float | Schedule) -> None:
        self._learning_rate = as_rate(type(self).__name__, "learning_rate", value)

    @property
    def schedule(self) -> Schedule | None:
        """The function that gives the learning rate; None where it is a number. A number that is set ends the schedule."""
        return self._learning_rate if callable(self._learning_rate) else None

    @abstractmethod
    def settings(self) -> dict[str, float]:
        """The other arguments, by name, in their order."""

    def states(self, parameter: Parameter) -> list[Parameter]:
        """What the optimizer keeps for a parameter; not trainable themselves."""
        if parameter not in self._states:
            self._states[parameter] = [
                Parameter(f"{parameter.name}/{name}", np.full_like(parameter.data, self.state_start), trainable=False)
                for name in self.state_names
            ]
        return self._states[parameter]

    def hyper(self) -> np.ndarray:
        """The numbers of the coming step: float32, shape (n_hyper,)."""
        return np.array([self.learning_rate], np.float32)

    @abstractmethod
    def update_layer(self, name: str) -> Layer:
        """The operator that updates a parameter of this name."""

    def append(self, g: Graph, weights: Value, diff_weights: Value, hyper: Value) -> None:
        """Append the update of a parameter to a graph, among the nodes that are kept for their effect."""
        assert weights.parameter is not None
        states = [Value(s.shape, FLOAT32, s.name, parameter=s) for s in self.states(weights.parameter)]
        g.apply(self.update_layer(f"{weights.parameter.name}/update"), diff_weights, hyper, weights, *states)
        g.effects.append(g.nodes[-1])

    def clipped(self, g: Graph, gradients: Sequence[Value]) -> list[Value]:
        """Append the clipping of all gradients of a step."""
        if "clipvalue" in self.clipping:
            bound = self.clipping["clipvalue"]
            return [g.apply1(Clip(-bound, bound, name="clipvalue"), diff) for diff in gradients]
        if "global_clipnorm" in self.clipping:
            factor = _clip_factor(g, gradients, self.clipping["global_clipnorm"])
            return [multiply(g, diff, factor) for diff in gradients]
        if "clipnorm" in self.clipping:
            return [multiply(g, diff, _clip_factor(g, [diff], self.clipping["clipnorm"])) for diff in gradients]
        return list(gradients)


def _clip_factor(g: Graph, gradients: Sequence[Value], bound: float) -> Value:
    """``bound / max(norm, bound)`` of the norm of all of them together, shape (1,)."""
    squares = [g.apply1(SumSquares(name="sum_squares"), diff) for diff in gradients]
    total = squares[0] if len(squares) == 1 else add(g, *squares)
    least = constant(np.full(1, bound, np.float32), "bound")
    norm = g.apply1(Maximum(name="norm"), g.apply1(Sqrt(name="norm"), total), least)
    return g.apply1(Divide(name="clip_factor"), least, norm)


class SGD(Optimizer):
    """Stochastic gradient descent: ``velocity = momentum * velocity + gradient``, ``w -= learning_rate * velocity``.

    Parameters
    ----------
    learning_rate : float or function of the step
    momentum : float
        In [0, 1). Without momentum nothing is kept for a parameter.
    nesterov : bool
        Step along ``gradient + momentum * velocity``.
    weight_decay : float
        ``gradient + weight_decay * w`` takes the gradient's place (L2).
    **clipping
        ``clipnorm``, ``global_clipnorm`` or ``clipvalue``, as in ``Optimizer``.

    References
    ----------
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(self, learning_rate: float | Schedule = 0.01, momentum: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0, **clipping: float | None):
        super().__init__(learning_rate, weight_decay, **clipping)
        self.momentum = as_number("SGD", "momentum", momentum, minimum=0, below=1)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(message("SGD", "momentum", "be greater than 0 with nesterov=True", momentum))
        self.state_names = ("velocity",) if self.momentum else ()

    def settings(self) -> dict[str, float]:
        return {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}

    def update_layer(self, name: str) -> Layer:
        params = {"momentum": self.momentum, "decay": self.weight_decay, "nesterov": self.nesterov}
        return Update("sgd", params, name)


class Adam(Optimizer):
    """Adam: steps along the mean gradient, scaled by the root of the mean squared gradient.

    Parameters
    ----------
    learning_rate : float or function of the step
    beta_1, beta_2 : float
        In [0, 1): how long the two means remember.
    epsilon : float
        Greater than 0.
    weight_decay : float
        Decoupled from the moments (AdamW): ``w -= learning_rate * weight_decay * w``.
    **clipping
        ``clipnorm``, ``global_clipnorm`` or ``clipvalue``, as in ``Optimizer``.

    References
    ----------
    D. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. I. Loshchilov, F. Hutter,
    "Decoupled weight decay regularization", 2019.
    """

    n_hyper = 3
    state_names = ("first_moment", "second_moment")

    def __init__(self, learning_rate: float | Schedule = 0.001, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, weight_decay: float = 0.0, **clipping: float | None):
        super().__init__(learning_rate, weight_decay, **clipping)
        self.beta_1 = as_number(type(self).__name__, "beta_1", beta_1, minimum=0, below=1)
        self.beta_2 = as_number(type(self).__name__, "beta_2", beta_2, minimum=0, below=1)
        self.epsilon = as_number(type(self).__name__, "epsilon", epsilon, above=0)

    def settings(self) -> dict[str, float]:
        return {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon, "weight_decay": self.weight_decay}

    def corrections(self) -> tuple[float, float]:
        """Factors of the first moment and of epsilon that make up for moments that began with 0."""
        # m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) = m / (sqrt(v) + eps c) * c / (1 - b1^t), c = sqrt(1 - b2^t)
        step = self.steps + 1
        correction = math.sqrt(1 - self.beta_2**step)
        return correction / (1 - self.beta_1**step), correction

    def hyper(self) -> np.ndarray:
        rate, (first, second) = self.learning_rate, self.corrections()
        return np.array([rate * first, self.epsilon * second, rate * self.weight_decay], np.float32)

    def update_layer(self, name: str) -> Layer:
        return Update("adam", {"beta_1": self.beta_1, "beta_2": self.beta_2}, name)


class AdamW(Adam):
    """``Adam`` with its decoupled weight decay, which is 0.004 here unless given."""

    def __init__(self, learning_rate: float | Schedule = 0.001, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, weight_decay: float = 0.004, **clipping: float | None):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay, **clipping)


class Lamb(Adam):
    """Adam's step, scaled in each parameter to the norm of its weights: for large batches.

    ``r = step of Adam + weight_decay * w``, ``w -= learning_rate * |w| / |r| * r``; the quotient is 1 where a norm is 0.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As in ``Adam``.
    weight_decay : float
        Added to the direction before it is scaled.
    **clipping
        ``clipnorm``, ``global_clipnorm`` or ``clipvalue``, as in ``Optimizer``.

    References
    ----------
    Y. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, algorithm 2.
    """

    def hyper(self) -> np.ndarray:
        first, second = self.corrections()
        return np.array([self.learning_rate, first, self.epsilon * second], np.float32)

    def update_layer(self, name: str) -> Layer:
        params = {"beta_1": self.beta_1, "beta_2": self.beta_2, "decay": self.weight_decay}
        return LambUpdate("lamb_direction", params, name)


class RMSprop(Optimizer):
    """Steps along the gradient, each element divided by the root of its mean squared gradient.

    Parameters
    ----------
    learning_rate : float or function of the step
    rho : float
        In [0, 1): how long the mean remembers.
    momentum : float
        In [0, 1): ``velocity = momentum * velocity + step``, ``w -= learning_rate * velocity``.
    epsilon : float
        Greater than 0, added to the root.
    weight_decay : float
        ``gradient + weight_decay * w`` takes the gradient's place (L2).
    **clipping
        ``clipnorm``, ``global_clipnorm`` or ``clipvalue``, as in ``Optimizer``.

    References
    ----------
    T. Tieleman, G. Hinton, "Neural networks for machine learning", lecture 6.5, 2012.
    """

    def __init__(self, learning_rate: float | Schedule = 0.001, rho: float = 0.9, momentum: float = 0.0,
                 epsilon: float = 1e-7, weight_decay: float = 0.0, **clipping: float | None):
        super().__init__(learning_rate, weight_decay, **clipping)
        self.rho = as_number("RMSprop", "rho", rho, minimum=0, below=1)
        self.momentum = as_number("RMSprop", "momentum", momentum, minimum=0, below=1)
        self.epsilon = as_number("RMSprop", "epsilon", epsilon, above=0)
        self.state_names = ("mean_square", "velocity") if self.momentum else ("mean_square",)

    def settings(self) -> dict[str, float]:
        return {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "weight_decay": self.weight_decay}

    def update_layer(self, name: str) -> Layer:
        return Update("rmsprop", {"keep": self.rho, "take": 1 - self.rho, "momentum": self.momentum,
                                  "epsilon": self.epsilon, "decay": self.weight_decay}, name)


class Adagrad(Optimizer):
    """Steps along the gradient, each element divided by the root of the sum of its squared gradients.

    Parameters
    ----------
    learning_rate : float or function of the step
    initial_accumulator_value : float
        What the sums begin with, at least 0.
    epsilon : float
        Greater than 0, added to the root.
    weight_decay : float
        ``gradient + weight_decay * w`` takes the gradient's place (L2).
    **clipping
        ``clipnorm``, ``global_clipnorm`` or ``clipvalue``, as in ``Optimizer``.

    References
    ----------
    J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    state_names = ("sum_of_squares",)

    def __init__(self, learning_rate: float | Schedule = 0.001, initial_accumulator_value: float = 0.1,
                 epsilon: float = 1e-7, weight_decay: float = 0.0, **clipping: float | None):
        super().__init__(learning_rate, weight_decay, **clipping)
        self.state_start = as_number("Adagrad", "initial_accumulator_value", initial_accumulator_value, minimum=0)
        self.epsilon = as_number("Adagrad", "epsilon", epsilon, above=0)

    def settings(self) -> dict[str, float]:
        return {"initial_accumulator_value": self.state_start, "epsilon": self.epsilon, "weight_decay": self.weight_decay}

    def update_layer(self, name: str) -> Layer:
        # A mean that forgets nothing is the sum.
        return Update("rmsprop", {"keep": 1, "take": 1, "momentum": 0, "epsilon": self.epsilon,
                                  "decay": self.weight_decay}, name)


class Update(Layer):
    """Updates a parameter in place: inputs gradient, hyper, parameter, its states; no output."""

    n_inputs = None
    n_outputs = 0

    def __init__(self, kernel: str, params: dict[str, float], name: str):
        super().__init__(name=name)
        self.kernel = kernel
        self.params = params

    def output_shapes(self, *shapes: Shape) -> list[Shape]:
        return []

    def lower(self, b: PlanBuilder, node: Node) -> None:
        gradient, hyper, *targets = (b.view(v) for v in node.inputs)
        row_step(b, self.kernel, [gradient, _everywhere(hyper, gradient)], targets, self.params, why="in place")


class LambUpdate(Update):
    """The update of ``Lamb``: the direction, the two norms, the step."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        gradient, hyper, w, first, second = (b.view(v) for v in node.inputs)
        direction, (weights_2, direction_2) = b.temp(w.shape), (b.temp((1,)) for _ in range(2))
        row_step(b, self.kernel, [gradient, _everywhere(hyper, w), w], [direction, first, second], self.params,
                 why="moments in place")
        lower_sum_squares(b, w, weights_2)
        lower_sum_squares(b, direction, direction_2)
        row_step(b, "lamb", [direction, *(_everywhere(v, w) for v in (hyper, weights_2, direction_2))], [w],
                 why="in place")


class SumSquares(Layer):
    """Sum of the squares of all elements, shape (1,)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (1,)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_sum_squares(b, b.view(node.inputs[0]), b.view(node.output))


def _everywhere(numbers: View, like: View) -> View:
    """A few numbers as a source whose rows are those of another."""
    return replace(numbers, shape=like.shape, strides=(0,) * len(like.shape))


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad, "lamb": Lamb,
}


def get_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """An optimizer by name, or the optimizer itself.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is neither a name nor an optimizer.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str):
        raise TypeError(message("compile", "optimizer", "be a name or an optimizer object", optimizer))
    if optimizer.lower() not in OPTIMIZERS:
        raise ValueError("compile: " + unknown("optimizer", optimizer, OPTIMIZERS))
    return OPTIMIZERS[optimizer.lower()]()
