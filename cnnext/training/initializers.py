"""How parameters begin: the initializers of the field, drawn from one seeded generator.

Glorot & Bengio 2010 (uniform and normal, by fan-in and fan-out), He et al. 2015 (by fan-in), LeCun 1998, Saxe et al. 2014
(orthogonal).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message, unknown
from cnnext.layers.attributes import as_number

if TYPE_CHECKING:
    from cnnext.layers.layer import ParameterSpec

_shared = np.random.default_rng(0)
_own: ContextVar[np.random.Generator | None] = ContextVar("cnnext_generator", default=None)

# The standard deviation of a standard normal distribution cut off at -2 and 2.
TRUNCATED_STDDEV = 0.87962566103423978


def set_random_seed(seed: int) -> None:
    """Seed parameters, data order and dropout: the same seed gives the same bits, for any number of threads.

    Parameters
    ----------
    seed : int
        Not negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(message("set_random_seed", "seed", "be a whole number of at least 0", seed))
    generator().bit_generator.state = np.random.default_rng(int(seed)).bit_generator.state


def generator() -> np.random.Generator:
    """The generator that everything random in cnnext draws from."""
    own = _own.get()
    return _shared if own is None else own


@contextmanager
def drawing_from(own: np.random.Generator) -> Iterator[None]:
    """In this block, and in this thread, everything random in cnnext draws from ``own``, made by ``np.random.default_rng``.

    The generator that all others share is neither used nor changed, nor does ``set_random_seed`` in the block reach it.
    """
    token = _own.set(own)
    try:
        yield
    finally:
        _own.reset(token)


class Initializer(ABC):
    """Base class: how a parameter begins. A subclass is a dataclass of numbers."""

    @abstractmethod
    def draw(self, spec: ParameterSpec) -> np.ndarray:
        """The array, of the spec's shape."""

    def _check(self, **bounds: Any) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = as_number(type(self).__name__, field.name, getattr(self, field.name), **bounds.get(field.name, {}))
            object.__setattr__(self, field.name, value)


@dataclass(frozen=True)
class Constant(Initializer):
    """One number everywhere.

    Parameters
    ----------
    value : float
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        self._check()

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        return np.full(spec.shape, self.value)


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Normally distributed numbers.

    Parameters
    ----------
    mean, stddev : float
    """

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        self._check(stddev={"minimum": 0})

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        return generator().normal(self.mean, self.stddev, spec.shape)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normally distributed numbers, drawn again where they are more than two ``stddev`` from the mean.

    Parameters
    ----------
    mean, stddev : float
        Before numbers are drawn again; what is left has a standard deviation of ``0.8796 * stddev``.
    """

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        self._check(stddev={"minimum": 0})

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        z = generator().normal(size=spec.shape)
        while (outside := np.abs(z) > 2).any():
            z[outside] = generator().normal(size=int(outside.sum()))
        return self.mean + self.stddev * z


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Numbers between two bounds, each equally likely.

    Parameters
    ----------
    minval, maxval : float
    """

    minval: float = -0.05
    maxval: float = 0.05

    def __post_init__(self) -> None:
        self._check()
        if self.maxval < self.minval:
            raise ValueError(message("RandomUniform", "maxval", f"be at least minval={self.minval}", self.maxval))

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        return generator().uniform(self.minval, self.maxval, spec.shape)


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Mean 0 and variance ``scale / fan``, whatever the shape: the family of Glorot's, He's and LeCun's.

    "glorot_normal", "he_normal" and "lecun_normal" are not truncated, as in PyTorch; ``VarianceScaling(2.0)`` is what Keras
    calls "he_normal".

    Parameters
    ----------
    scale : float
        Greater than 0.
    mode : "fan_in", "fan_out" or "fan_avg"
        How many inputs an output has, how many outputs an input has, the mean of both.
    distribution : "truncated_normal", "untruncated_normal" or "uniform"
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"

    def __post_init__(self) -> None:
        as_number("VarianceScaling", "scale", self.scale, above=0)
        for name, known in (("mode", _FANS), ("distribution", _DISTRIBUTIONS)):
            if getattr(self, name) not in known:
                raise ValueError("VarianceScaling: " + unknown(name, getattr(self, name), known))

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        return _DISTRIBUTIONS[self.distribution](self.scale / max(_FANS[self.mode](spec), 1)).draw(spec)


_FANS: dict[str, Callable[[ParameterSpec], float]] = {
    "fan_in": lambda spec: spec.fan_in,
    "fan_out": lambda spec: spec.fan_out,
    "fan_avg": lambda spec: (spec.fan_in + spec.fan_out) / 2,
}
_DISTRIBUTIONS: dict[str, Callable[[float], Initializer]] = {
    "truncated_normal": lambda variance: TruncatedNormal(0.0, variance**0.5 / TRUNCATED_STDDEV),
    "untruncated_normal": lambda variance: RandomNormal(0.0, variance**0.5),
    "uniform": lambda variance: RandomUniform(-((3 * variance) ** 0.5), (3 * variance) ** 0.5),
}


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """Orthonormal columns, or rows where they are fewer, of the parameter as a matrix of all axes but the last by the last.

    Parameters
    ----------
    gain : float
        A factor.

    References
    ----------
    A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", 2014. Uniformly distributed (Haar): F. Mezzadri, "How to generate random matrices from the classical compact
    groups", 2007.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        self._check()

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        rows, columns = _matrix("Orthogonal", spec)
        q, r = np.linalg.qr(generator().normal(size=(max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)     # else the signs are those that the algorithm likes
        return self.gain * (q if rows >= columns else q.T).reshape(spec.shape)


@dataclass(frozen=True)
class Identity(Initializer):
    """The identity matrix; of a convolution, with the channels passed on by the window's centre.

    Parameters
    ----------
    gain : float
        A factor.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        self._check()

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        _matrix("Identity", spec)
        array = np.zeros(spec.shape)
        array[tuple(n // 2 for n in spec.shape[:-2])] = self.gain * np.eye(spec.shape[-2], spec.shape[-1])
        return array


@dataclass(frozen=True, eq=False)
class _Given(Initializer):
    """An array, or what a function of the shape returns."""

    source: Any
    where: str

    def draw(self, spec: ParameterSpec) -> np.ndarray:
        array = np.asarray(self.source(spec.shape) if callable(self.source) else self.source)
        if array.shape != tuple(spec.shape):
            raise ValueError(message(self.where, "array", f"have shape {spec.shape}", array))
        if array.dtype.kind not in "fiu":
            raise TypeError(message(self.where, "array", "hold numbers", str(array.dtype)))
        return array


def _matrix(where: str, spec: ParameterSpec) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix."""
    if len(spec.shape) < 2:
        raise ValueError(message(where, "shape", "have rank 2 at least", spec.shape))
    return int(np.prod(spec.shape[:-1])), spec.shape[-1]


INITIALIZERS: dict[str, Initializer] = {
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "quarter": Constant(0.25),
    "glorot_uniform": VarianceScaling(1.0, "fan_avg", "uniform"),
    "glorot_normal": VarianceScaling(1.0, "fan_avg", "untruncated_normal"),
    "he_uniform": VarianceScaling(2.0, "fan_in", "uniform"),
    "he_normal": VarianceScaling(2.0, "fan_in", "untruncated_normal"),
    "lecun_uniform": VarianceScaling(1.0, "fan_in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "fan_in", "untruncated_normal"),
    "random_normal": RandomNormal(),
    "random_uniform": RandomUniform(),
    "truncated_normal": TruncatedNormal(),
    "orthogonal": Orthogonal(),
    "identity": Identity(),
}

MAX_ELEMENTS = 2**33  # 32 GiB of float32: beyond that a shape is a mistake, and its product may overflow elsewhere


def get_initializer(where: str, name: str, value: Any) -> str | Initializer:
    """An initializer by name or as an object; an array, or a function from a shape to one, becomes one.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is none of these.
    """
    if isinstance(value, Initializer):
        return value
    if isinstance(value, str):
        if value not in INITIALIZERS:
            raise ValueError(f"{where}: " + unknown("initializer", value, INITIALIZERS))
        return value
    if callable(value) and not isinstance(value, type) or isinstance(value, (np.ndarray, list)):
        return _Given(value, f"{where}, {name}")
    rule = "be an initializer's name, an Initializer, an array or a function of a shape"
    raise TypeError(message(where, name, rule, value))


def initialize(spec: ParameterSpec, where: str) -> np.ndarray:
    """A float32 array for a parameter.

    Raises
    ------
    ValueError
        If the initializer is not known or does not fit the shape, or that has more than 2**33 elements.
    """
    initializer = get_initializer(where, "initializer", spec.initializer)
    elements = 1
    for extent in spec.shape:
        elements *= int(extent)
    if elements > MAX_ELEMENTS:
        raise ValueError(message(where, "shape", f"have at most {MAX_ELEMENTS} elements", spec.shape))
    drawn = INITIALIZERS[initializer] if isinstance(initializer, str) else initializer
    return drawn.draw(spec).astype(np.float32)
