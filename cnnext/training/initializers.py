"""How parameters begin: the initializers of the field, drawn from one seeded generator.

Glorot & Bengio 2010 (uniform and normal, by fan-in and fan-out), He et al. 2015 (by fan-in), LeCun 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from cnnext.errors import message, unknown

if TYPE_CHECKING:
    from cnnext.layers.layer import ParameterSpec

_shared = np.random.default_rng(0)
_own: ContextVar[np.random.Generator | None] = ContextVar("cnnext_generator", default=None)


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


def _uniform(variance: Callable[[ParameterSpec], float]) -> Callable[[ParameterSpec], np.ndarray]:
    def draw(spec: ParameterSpec) -> np.ndarray:
        limit = (3.0 * variance(spec)) ** 0.5
        return generator().uniform(-limit, limit, spec.shape)

    return draw


def _normal(variance: Callable[[ParameterSpec], float]) -> Callable[[ParameterSpec], np.ndarray]:
    return lambda spec: generator().normal(0.0, variance(spec) ** 0.5, spec.shape)


def _glorot(spec: ParameterSpec) -> float:
    return 2.0 / max(spec.fan_in + spec.fan_out, 1)


def _he(spec: ParameterSpec) -> float:
    return 2.0 / max(spec.fan_in, 1)


def _lecun(spec: ParameterSpec) -> float:
    return 1.0 / max(spec.fan_in, 1)


INITIALIZERS: dict[str, Callable[[ParameterSpec], np.ndarray]] = {
    "zeros": lambda spec: np.zeros(spec.shape),
    "ones": lambda spec: np.ones(spec.shape),
    "quarter": lambda spec: np.full(spec.shape, 0.25),
    "glorot_uniform": _uniform(_glorot),
    "glorot_normal": _normal(_glorot),
    "he_uniform": _uniform(_he),
    "he_normal": _normal(_he),
    "lecun_uniform": _uniform(_lecun),
    "lecun_normal": _normal(_lecun),
}

MAX_ELEMENTS = 2**33  # 32 GiB of float32: beyond that a shape is a mistake, and its product may overflow elsewhere


def initialize(spec: ParameterSpec, where: str) -> np.ndarray:
    """A float32 array for a parameter.

    Raises
    ------
    ValueError
        If the initializer is not known or the shape has more than 2**33 elements.
    """
    if spec.initializer not in INITIALIZERS:
        raise ValueError(f"{where}: " + unknown("initializer", spec.initializer, INITIALIZERS))
    elements = 1
    for extent in spec.shape:
        elements *= int(extent)
    if elements > MAX_ELEMENTS:
        raise ValueError(message(where, "shape", f"have at most {MAX_ELEMENTS} elements", spec.shape))
    return INITIALIZERS[spec.initializer](spec).astype(np.float32)
