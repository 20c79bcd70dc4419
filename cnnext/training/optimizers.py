"""Optimizers: how parameters follow their gradients. Each gives the node that updates one parameter in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import FLOAT32, Graph, Node, Parameter, Shape, Value
from cnnext.layers._rows import row_step
from cnnext.layers.attributes import as_number
from cnnext.layers.layer import Layer

if TYPE_CHECKING:
    from cnnext.graph.plan import PlanBuilder


class Optimizer(ABC):
    """Base class of the optimizers.

    Parameters
    ----------
    learning_rate : float
        Greater than 0; may be set to another value at any time, also in the middle of training.
    weight_decay : float
        At least 0.

    Attributes
    ----------
    steps : int
        Updates made so far.
    """

    n_hyper: ClassVar[int] = 1                  # numbers that change from step to step
    state_names: tuple[str, ...] = ()           # what is kept for each parameter

    def __init__(self, learning_rate: float, weight_decay: float):
        self.learning_rate = learning_rate
        self.weight_decay = as_number(type(self).__name__, "weight_decay", weight_decay, minimum=0)
        self.steps = 0
        self._states: dict[Parameter, list[Parameter]] = {}

    @property
    def learning_rate(self) -> float:
        """Size of a step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = as_number(type(self).__name__, "learning_rate", value, above=0)

    def states(self, parameter: Parameter) -> list[Parameter]:
        """What the optimizer keeps for a parameter, zeros at first; not trainable themselves."""
        if parameter not in self._states:
            self._states[parameter] = [
                Parameter(f"{parameter.name}/{name}", np.zeros_like(parameter.data), trainable=False)
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


class SGD(Optimizer):
    """Stochastic gradient descent: ``velocity = momentum * velocity + gradient``, ``w -= learning_rate * velocity``.

    Parameters
    ----------
    learning_rate : float
    momentum : float
        In [0, 1). Without momentum nothing is kept for a parameter.
    nesterov : bool
        Step along ``gradient + momentum * velocity``.
    weight_decay : float
        ``gradient + weight_decay * w`` takes the gradient's place (L2).

    References
    ----------
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0):
        super().__init__(learning_rate, weight_decay)
        self.momentum = as_number("SGD", "momentum", momentum, minimum=0, below=1)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(message("SGD", "momentum", "be greater than 0 with nesterov=True", momentum))
        self.state_names = ("velocity",) if self.momentum else ()

    def __repr__(self) -> str:
        return (f"SGD(learning_rate={self.learning_rate}, momentum={self.momentum}, nesterov={self.nesterov}, "
                f"weight_decay={self.weight_decay})")

    def update_layer(self, name: str) -> Layer:
        params = {"momentum": self.momentum, "decay": self.weight_decay, "nesterov": self.nesterov}
        return Update("sgd", params, name)


class Adam(Optimizer):
    """Adam: steps along the mean gradient, scaled by the root of the mean squared gradient.

    Parameters
    ----------
    learning_rate : float
    beta_1, beta_2 : float
        In [0, 1): how long the two means remember.
    epsilon : float
        Greater than 0.
    weight_decay : float
        Decoupled from the moments (AdamW): ``w -= learning_rate * weight_decay * w``.

    References
    ----------
    D. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. I. Loshchilov, F. Hutter,
    "Decoupled weight decay regularization", 2019.
    """

    n_hyper = 3
    state_names = ("first_moment", "second_moment")

    def __init__(self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
                 weight_decay: float = 0.0):
        super().__init__(learning_rate, weight_decay)
        self.beta_1 = as_number("Adam", "beta_1", beta_1, minimum=0, below=1)
        self.beta_2 = as_number("Adam", "beta_2", beta_2, minimum=0, below=1)
        self.epsilon = as_number("Adam", "epsilon", epsilon, above=0)

    def __repr__(self) -> str:
        return (f"Adam(learning_rate={self.learning_rate}, beta_1={self.beta_1}, beta_2={self.beta_2}, "
                f"epsilon={self.epsilon}, weight_decay={self.weight_decay})")

    def hyper(self) -> np.ndarray:
        # m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) = m / (sqrt(v) + eps c) * c / (1 - b1^t), c = sqrt(1 - b2^t)
        step = self.steps + 1
        correction = math.sqrt(1 - self.beta_2**step)
        rate = self.learning_rate * correction / (1 - self.beta_1**step)
        return np.array([rate, self.epsilon * correction, self.learning_rate * self.weight_decay], np.float32)

    def update_layer(self, name: str) -> Layer:
        return Update("adam", {"beta_1": self.beta_1, "beta_2": self.beta_2}, name)


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
        everywhere = replace(hyper, shape=gradient.shape, strides=(0,) * len(gradient.shape))
        row_step(b, self.kernel, [gradient, everywhere], targets, self.params, why="in place")


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sgd": SGD, "adam": Adam}


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
