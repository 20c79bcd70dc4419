"""Optimizers: how parameters follow their gradients. Each gives the nodes that update parameters in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import FLOAT32, Graph, Node, Parameter, Shape, Value, constant
from cnnext.layers._rows import row_step
from cnnext.layers.activation import Clip
from cnnext.layers.attributes import as_int, as_number
from cnnext.layers.elementary import Sqrt
from cnnext.layers.elementwise import Divide, Maximum, add, multiply
from cnnext.layers.layer import Layer
from cnnext.training.loss_operators import SumSquares, lower_sum_squares
from cnnext.training.schedules import Schedule, as_rate, rate_at

if TYPE_CHECKING:
    from cnnext.graph.memory import View
    from cnnext.graph.plan import PlanBuilder


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that an optimizer treats in their own way.

    Parameters
    ----------
    match : str, list of str, or function
        Patterns of names (``net.parameters`` has them), with ``*`` and ``?``: ``"*/bias"``, ``"conv1/*"``; or a function
        that takes a ``Parameter`` (``name``, ``shape``, ``data``) and says whether it belongs to the group.
    weight_decay : float, optional
        In place of the optimizer's, at least 0.
    learning_rate_multiplier : float
        At least 0.

    Examples
    --------
    >>> still = cx.ParameterGroup(["*/bias", "*/gamma", "*/beta"], weight_decay=0)
    >>> slow = cx.ParameterGroup("body/*", learning_rate_multiplier=0.1)
    >>> net.compile(cx.AdamW(1e-3, weight_decay=0.05, groups=[still, slow]))
    """

    match: str | Sequence[str] | Callable[[Parameter], bool]
    weight_decay: float | None = None
    learning_rate_multiplier: float = 1.0

    def __post_init__(self) -> None:
        patterns = [self.match] if isinstance(self.match, str) else self.match
        if not callable(self.match) and not (isinstance(patterns, Sequence) and all(isinstance(p, str) for p in patterns)):
            rule = "be a pattern of names, a list of them, or a function of a parameter"
            raise TypeError(message("ParameterGroup", "match", rule, self.match))
        if self.weight_decay is not None:
            as_number("ParameterGroup", "weight_decay", self.weight_decay, minimum=0)
        as_number("ParameterGroup", "learning_rate_multiplier", self.learning_rate_multiplier, minimum=0)

    def holds(self, parameter: Parameter) -> bool:
        """Whether a parameter belongs to the group."""
        if callable(self.match):
            return bool(self.match(parameter))
        patterns = [self.match] if isinstance(self.match, str) else self.match
        return any(fnmatchcase(parameter.name, pattern) for pattern in patterns)


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
    groups : list of ParameterGroup
        Parameters with another weight decay or learning rate; the first group that a parameter belongs to counts.
    gradient_accumulation_steps : int, optional
        So many batches make one update, by the mean of their gradients: as one batch of them all would, in the memory of
        one (batch normalization still takes the statistics of each). Clipping is applied to the mean, schedules count
        updates. Batches that are left at the end of an epoch go on in the next one.
    use_ema : bool
        Keep an average of each parameter too, ``average = ema_momentum * average + (1 - ema_momentum) * w`` after each
        update. In ``fit`` validation and callbacks see the averages at the end of an epoch, and they take the weights' place
        when it has ended; everywhere else, ``with net.ema_weights():``. Statistics of batch normalization are no parameters
        that are updated, and stay as they are.
    ema_momentum : float
        In (0, 1).

    Attributes
    ----------
    steps : int
        Updates made so far.
    accumulated : int
        Batches whose gradients wait for the next update.
    """

    n_numbers: ClassVar[int] = 1                # that change from step to step, for each group
    state_names: tuple[str, ...] = ()           # what is kept for each parameter
    state_start: float = 0.0                    # and its value before the first step
    latest_rate: float = 0.0                    # the learning rate that was asked for last: of the step that is over

    def __init__(self, learning_rate: float | Schedule, weight_decay: float, clipnorm: float | None = None,
                 global_clipnorm: float | None = None, clipvalue: float | None = None,
                 groups: Sequence[ParameterGroup] = (), gradient_accumulation_steps: int | None = None,
                 use_ema: bool = False, ema_momentum: float = 0.99):
        where = type(self).__name__
        self.learning_rate = learning_rate
        self.weight_decay = as_number(where, "weight_decay", weight_decay, minimum=0)
        given = {"clipnorm": clipnorm, "global_clipnorm": global_clipnorm, "clipvalue": clipvalue}
        self.clipping = {name: as_number(where, name, bound, above=0) for name, bound in given.items() if bound is not None}
        if len(self.clipping) > 1:
            first, second = list(self.clipping)[:2]
            raise ValueError(message(where, second, f"be None where {first} is given", given[second]))
        if isinstance(groups, str) or not all(isinstance(group, ParameterGroup) for group in groups):
            raise TypeError(message(where, "groups", "be a list of ParameterGroup", groups))
        self.groups = list(groups)
        self.gradient_accumulation_steps = 1 if gradient_accumulation_steps is None else as_int(
            where, "gradient_accumulation_steps", gradient_accumulation_steps, minimum=1)
        self.use_ema = bool(use_ema)
        self.ema_momentum = as_number(where, "ema_momentum", ema_momentum, above=0, below=1)
        self.steps = 0
        self.accumulated = 0
        self._states: dict[Parameter, list[Parameter]] = {}

    def __repr__(self) -> str:
        named: dict[str, Any] = {"learning_rate": self._learning_rate, **self.settings(), **self.clipping}
        if self.groups:
            named["groups"] = self.groups
        if self.gradient_accumulation_steps > 1:
            named["gradient_accumulation_steps"] = self.gradient_accumulation_steps
        if self.use_ema:
            named |= {"use_ema": True, "ema_momentum": self.ema_momentum}
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

    # What is kept

    @property
    def slot_names(self) -> tuple[str, ...]:
        """What is kept for each parameter: the optimizer's own states, a sum of gradients, an average."""
        total = ("accumulated_gradient",) if self.gradient_accumulation_steps > 1 else ()
        return (*self.state_names, *total, *(("average",) if self.use_ema else ()))

    def states(self, parameter: Parameter) -> list[Parameter]:
        """What the optimizer keeps for a parameter, by ``slot_names``; not trainable themselves."""
        if parameter not in self._states:
            self._states[parameter] = [Parameter(f"{parameter.name}/{name}", array, trainable=False) for name, array in
                                       zip(self.slot_names, self.first_states(parameter), strict=True)]
        return self._states[parameter]

    def first_states(self, parameter: Parameter) -> list[np.ndarray]:
        """What is kept for a parameter before its first update."""
        start = {"accumulated_gradient": 0.0, "average": parameter.data}
        return [np.full(parameter.shape, start.get(name, self.state_start), np.float32) for name in self.slot_names]

    def averages(self, parameters: Iterable[Parameter]) -> dict[Parameter, Parameter]:
        """The averages of those of the parameters that have been updated."""
        return {p: self._states[p][-1] for p in parameters if p in self._states} if self.use_ema else {}

    def count(self) -> None:
        """Note that a batch has been trained on."""
        self.accumulated = (self.accumulated + 1) % self.gradient_accumulation_steps
        self.steps += self.accumulated == 0

    # Groups

    def check_groups(self, parameters: Sequence[Parameter]) -> None:
        """Refuse a group to which none of the parameters belongs.

        Raises
        ------
        ValueError
        """
        for i, group in enumerate(self.groups):
            if not any(map(group.holds, parameters)):
                rule = f"match a parameter; there are {', '.join(p.name for p in parameters)}"
                raise ValueError(message(type(self).__name__, f"groups[{i}]", rule, group.match))

    def _group_of(self, parameter: Parameter) -> int:
        """0, or the number of the parameter's group from 1."""
        return next((i for i, group in enumerate(self.groups, start=1) if group.holds(parameter)), 0)

    def _decay_of(self, group: int) -> float:
        decay = self.groups[group - 1].weight_decay if group else None
        return self.weight_decay if decay is None else decay

    # The step

    @property
    def n_hyper(self) -> int:
        """Elements of ``hyper()``."""
        return (1 + len(self.groups)) * (1 + self.n_numbers)

    def hyper(self) -> np.ndarray:
        """The numbers of the coming step, float32: of each group, whether it is updated, and its ``numbers``."""
        active = float(self.accumulated + 1 == self.gradient_accumulation_steps)
        rate = self.learning_rate
        rows = []
        for i, factor in enumerate([1.0, *(group.learning_rate_multiplier for group in self.groups)]):
            rows += [active, *self.numbers(rate * factor, self._decay_of(i))]
        return np.array(rows, np.float32)

    def numbers(self, rate: float, decay: float) -> list[float]:
        """What a group's kernels take that changes from step to step, ``n_numbers``."""
        return [rate]

    @abstractmethod
    def update_layer(self, name: str, decay: float) -> Update:
        """The operator that updates a parameter, of this name, with a weight decay."""

    def append(self, g: Graph, gradients: Mapping[Value, Value], hyper: Value) -> None:
        """Append a step to a graph.

        Parameters
        ----------
        g : Graph
            The updates are appended among the nodes that are kept for their effect.
        gradients : dict of Value to Value
            By the values of the parameters.
        hyper : Value
            Of shape (n_hyper,).
        """
        diffs = self.clipped(g, [self._mean(g, weights, diff, hyper) for weights, diff in gradients.items()])
        for weights, diff in zip(gradients, diffs, strict=True):
            assert weights.parameter is not None
            group, states = self._group_of(weights.parameter), self._state_values(weights.parameter)
            kept = [value for name, value in states.items() if name != "accumulated_gradient"]
            update = self.update_layer(f"{weights.parameter.name}/update", self._decay_of(group))
            update.first_hyper = group * (1 + self.n_numbers)
            update.ema = self.ema_momentum if self.use_ema else 0.0
            g.apply(update, diff, hyper, weights, *kept)
            g.effects.append(g.nodes[-1])

    def _state_values(self, parameter: Parameter) -> dict[str, Value]:
        states = [Value(s.shape, FLOAT32, s.name, parameter=s) for s in self.states(parameter)]
        return dict(zip(self.slot_names, states, strict=True))

    def _mean(self, g: Graph, weights: Value, diff: Value, hyper: Value) -> Value:
        """The mean gradient of the batches that make an update."""
        if self.gradient_accumulation_steps == 1:
            return diff
        assert weights.parameter is not None
        total = self._state_values(weights.parameter)["accumulated_gradient"]
        layer = Accumulate(1 / self.gradient_accumulation_steps, f"{weights.parameter.name}/accumulate")
        return g.apply1(layer, diff, hyper, total)

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
    **options
        ``clipnorm``, ``global_clipnorm``, ``clipvalue``, ``groups``, ``gradient_accumulation_steps``, ``use_ema``,
        ``ema_momentum``: as in ``Optimizer``.

    References
    ----------
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(self, learning_rate: float | Schedule = 0.01, momentum: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, weight_decay, **options)
        self.momentum = as_number("SGD", "momentum", momentum, minimum=0, below=1)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError(message("SGD", "momentum", "be greater than 0 with nesterov=True", momentum))
        self.state_names = ("velocity",) if self.momentum else ()

    def settings(self) -> dict[str, float]:
        return {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}

    def update_layer(self, name: str, decay: float) -> Update:
        params = {"momentum": self.momentum, "decay": decay, "nesterov": self.nesterov}
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
    **options
        ``clipnorm``, ``global_clipnorm``, ``clipvalue``, ``groups``, ``gradient_accumulation_steps``, ``use_ema``,
        ``ema_momentum``: as in ``Optimizer``.

    References
    ----------
    D. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. I. Loshchilov, F. Hutter,
    "Decoupled weight decay regularization", 2019.
    """

    n_numbers = 3
    state_names = ("first_moment", "second_moment")

    def __init__(self, learning_rate: float | Schedule = 0.001, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, weight_decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, weight_decay, **options)
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

    def numbers(self, rate: float, decay: float) -> list[float]:
        first, second = self.corrections()
        return [rate * first, self.epsilon * second, rate * decay]

    def update_layer(self, name: str, decay: float) -> Update:
        return Update("adam", {"beta_1": self.beta_1, "beta_2": self.beta_2}, name)


class AdamW(Adam):
    """``Adam`` with its decoupled weight decay, which is 0.004 here unless given."""

    def __init__(self, learning_rate: float | Schedule = 0.001, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, weight_decay: float = 0.004, **options: Any):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay, **options)


class Lamb(Adam):
    """Adam's step, scaled in each parameter to the norm of its weights: for large batches.

    ``r = step of Adam + weight_decay * w``, ``w -= learning_rate * |w| / |r| * r``; the quotient is 1 where a norm is 0.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As in ``Adam``.
    weight_decay : float
        Added to the direction before it is scaled.
    **options
        ``clipnorm``, ``global_clipnorm``, ``clipvalue``, ``groups``, ``gradient_accumulation_steps``, ``use_ema``,
        ``ema_momentum``: as in ``Optimizer``.

    References
    ----------
    Y. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, algorithm 2.
    """

    def numbers(self, rate: float, decay: float) -> list[float]:
        first, second = self.corrections()
        return [rate, first, self.epsilon * second]

    def update_layer(self, name: str, decay: float) -> Update:
        params = {"beta_1": self.beta_1, "beta_2": self.beta_2, "decay": decay}
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
    **options
        ``clipnorm``, ``global_clipnorm``, ``clipvalue``, ``groups``, ``gradient_accumulation_steps``, ``use_ema``,
        ``ema_momentum``: as in ``Optimizer``.

    References
    ----------
    T. Tieleman, G. Hinton, "Neural networks for machine learning", lecture 6.5, 2012.
    """

    def __init__(self, learning_rate: float | Schedule = 0.001, rho: float = 0.9, momentum: float = 0.0,
                 epsilon: float = 1e-7, weight_decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, weight_decay, **options)
        self.rho = as_number("RMSprop", "rho", rho, minimum=0, below=1)
        self.momentum = as_number("RMSprop", "momentum", momentum, minimum=0, below=1)
        self.epsilon = as_number("RMSprop", "epsilon", epsilon, above=0)
        self.state_names = ("mean_square", "velocity") if self.momentum else ("mean_square",)

    def settings(self) -> dict[str, float]:
        return {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "weight_decay": self.weight_decay}

    def update_layer(self, name: str, decay: float) -> Update:
        return Update("rmsprop", {"keep": self.rho, "take": 1 - self.rho, "momentum": self.momentum,
                                  "epsilon": self.epsilon, "decay": decay}, name)


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
    **options
        ``clipnorm``, ``global_clipnorm``, ``clipvalue``, ``groups``, ``gradient_accumulation_steps``, ``use_ema``,
        ``ema_momentum``: as in ``Optimizer``.

    References
    ----------
    J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    state_names = ("sum_of_squares",)

    def __init__(self, learning_rate: float | Schedule = 0.001, initial_accumulator_value: float = 0.1,
                 epsilon: float = 1e-7, weight_decay: float = 0.0, **options: Any):
        super().__init__(learning_rate, weight_decay, **options)
        self.state_start = as_number("Adagrad", "initial_accumulator_value", initial_accumulator_value, minimum=0)
        self.epsilon = as_number("Adagrad", "epsilon", epsilon, above=0)

    def settings(self) -> dict[str, float]:
        return {"initial_accumulator_value": self.state_start, "epsilon": self.epsilon, "weight_decay": self.weight_decay}

    def update_layer(self, name: str, decay: float) -> Update:
        # A mean that forgets nothing is the sum.
        return Update("rmsprop", {"keep": 1, "take": 1, "momentum": 0, "epsilon": self.epsilon, "decay": decay}, name)


class Update(Layer):
    """Updates a parameter in place: inputs gradient, hyper, parameter, its states, their average; no output.

    Attributes
    ----------
    first_hyper : int
        Where in hyper the numbers of the parameter's group begin.
    ema : float
        How long the average remembers; 0: there is none.
    """

    n_inputs = None
    n_outputs = 0

    def __init__(self, kernel: str, params: dict[str, float], name: str):
        super().__init__(name=name)
        self.kernel = kernel
        self.params = params
        self.first_hyper = 0
        self.ema = 0.0

    def output_shapes(self, *shapes: Shape) -> list[Shape]:
        return []

    def lower(self, b: PlanBuilder, node: Node) -> None:
        gradient, hyper, *targets = (b.view(v) for v in node.inputs)
        row_step(b, self.kernel, [gradient, self.numbers(hyper, gradient)], targets, {**self.params, "ema": self.ema},
                 why="in place")

    def numbers(self, hyper: View, like: View) -> View:
        """The group's numbers as a source whose rows are those of another."""
        return _everywhere(replace(hyper, offset=hyper.offset + self.first_hyper), like)


class LambUpdate(Update):
    """The update of ``Lamb``: the direction, the two norms, the step."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        gradient, hyper, w, first, second, *average = (b.view(v) for v in node.inputs)
        direction, (weights_2, direction_2) = b.temp(w.shape), (b.temp((1,)) for _ in range(2))
        hyper = self.numbers(hyper, w)
        row_step(b, self.kernel, [gradient, hyper, w], [direction, first, second], self.params, why="moments in place")
        lower_sum_squares(b, w, weights_2)
        lower_sum_squares(b, direction, direction_2)
        row_step(b, "lamb", [direction, hyper, *(_everywhere(v, w) for v in (weights_2, direction_2))], [w, *average],
                 {"ema": self.ema}, why="in place")


class Accumulate(Layer):
    """Adds a gradient to a sum in place: inputs gradient, hyper, the sum. Output: the sum times a scale, where the step
    updates; the sum then begins anew."""

    n_inputs = 3

    def __init__(self, scale: float, name: str):
        super().__init__(name=name)
        self.scale = scale

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        gradient, hyper, total = (b.view(v) for v in node.inputs)
        row_step(b, "accumulate", [gradient, _everywhere(hyper, gradient)], [b.view(node.output), total],
                 {"scale": self.scale}, why="in place")


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
