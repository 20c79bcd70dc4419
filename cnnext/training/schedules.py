"""Schedules of the learning rate: functions of the updates made so far, which an optimizer takes for its learning rate.

Any function of a whole number that returns a number will do; those here check their arguments and show them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cnnext.layers.attributes import as_int, as_number

# updates made so far, from 0, to the rate of the next one
Schedule = Callable[[int], float]


def rate_at(where: str, learning_rate: float | Schedule, step: int) -> float:
    """The rate of an update; a function's result is checked.

    Raises
    ------
    ValueError
        If it is not a finite number of at least 0.
    """
    return as_number(where, f"learning_rate({step})", learning_rate(step), minimum=0) if callable(learning_rate) \
        else learning_rate


def as_rate(where: str, name: str, value: float | Schedule) -> float | Schedule:
    """A number greater than 0, or a function of the step as it is."""
    return value if callable(value) else as_number(where, name, value, above=0)


def _check(schedule: object, **values: float) -> None:
    for name, value in values.items():
        object.__setattr__(schedule, name, as_number(type(schedule).__name__, name, value, above=0))


def _check_steps(schedule: object, name: str, value: int) -> None:
    object.__setattr__(schedule, name, as_int(type(schedule).__name__, name, value, minimum=1))


@dataclass(frozen=True)
class StepDecay:
    """``learning_rate * factor^n`` after ``n * step_size`` updates.

    Parameters
    ----------
    learning_rate : float
        Of the first ``step_size`` updates, greater than 0.
    step_size : int
        At least 1.
    factor : float
        Greater than 0.
    """

    learning_rate: float
    step_size: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check(self, learning_rate=self.learning_rate, factor=self.factor)
        _check_steps(self, "step_size", self.step_size)

    def __call__(self, step: int) -> float:
        return float(self.learning_rate * self.factor ** (step // self.step_size))


@dataclass(frozen=True)
class CosineDecay:
    """Half a wave of the cosine, from ``learning_rate`` down to ``alpha * learning_rate`` after ``steps`` updates.

    Parameters
    ----------
    learning_rate : float
        Of the first update, greater than 0.
    steps : int
        At least 1; beyond them the rate stays.
    alpha : float
        In [0, 1].

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, without the restarts.
    """

    learning_rate: float
    steps: int
    alpha: float = 0.0

    def __post_init__(self) -> None:
        _check(self, learning_rate=self.learning_rate)
        _check_steps(self, "steps", self.steps)
        object.__setattr__(self, "alpha", as_number("CosineDecay", "alpha", self.alpha, minimum=0, maximum=1))

    def __call__(self, step: int) -> float:
        return _cosine(self.learning_rate, self.alpha * self.learning_rate, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class OneCycle:
    """Up from ``learning_rate / start_divisor`` to ``learning_rate``, then down to almost nothing, both by cosines.

    Parameters
    ----------
    learning_rate : float
        The greatest, greater than 0.
    steps : int
        Updates of the whole cycle, at least 2; the rate of the last one stays.
    share : float
        Between 0 and 1: this share of them goes up.
    start_divisor : float
        ``learning_rate / start_divisor`` is the first rate.
    end_divisor : float
        The first rate divided by ``end_divisor`` is the last one.

    References
    ----------
    L. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2018.
    """

    learning_rate: float
    steps: int
    share: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 1e4

    def __post_init__(self) -> None:
        _check(self, learning_rate=self.learning_rate, start_divisor=self.start_divisor, end_divisor=self.end_divisor)
        object.__setattr__(self, "steps", as_int("OneCycle", "steps", self.steps, minimum=2))
        object.__setattr__(self, "share", as_number("OneCycle", "share", self.share, above=0, below=1))

    def __call__(self, step: int) -> float:
        first, last = self.learning_rate / self.start_divisor, self.steps - 1
        peak = max(self.share * self.steps - 1, 0)      # the last update on the way up
        if step < peak:
            return _cosine(first, self.learning_rate, step / peak)
        return _cosine(self.learning_rate, first / self.end_divisor, (min(step, last) - peak) / (last - peak))


@dataclass(frozen=True)
class WarmUp:
    """Up to a learning rate in equal steps, then on with it.

    Parameters
    ----------
    learning_rate : float or function of the step
        What follows the warm-up; a schedule begins then.
    steps : int
        Updates of the warm-up, at least 1: update i has ``(i + 1) / (steps + 1)`` of the first rate that follows.

    References
    ----------
    P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.
    """

    learning_rate: float | Schedule
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", as_rate("WarmUp", "learning_rate", self.learning_rate))
        _check_steps(self, "steps", self.steps)

    def __call__(self, step: int) -> float:
        after = rate_at("WarmUp", self.learning_rate, max(step - self.steps, 0))
        return after * min((step + 1) / (self.steps + 1), 1.0)


def _cosine(first: float, last: float, share: float) -> float:
    """From ``first`` to ``last`` while ``share`` goes from 0 to 1."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
