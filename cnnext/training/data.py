"""Data sets as arrays: checked once, then handed out in batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import FLOAT32, Shape, Value

Batch = tuple[list[np.ndarray], np.ndarray]  # arrays for the inputs, targets
Batches = Generator[Batch, None, None]


@dataclass
class Dataset:
    """Examples and their targets, in the dtypes in which the user gave them.

    Attributes
    ----------
    x : list of ndarray
        One array for each input of the model, examples on the first axis.
    y : ndarray
    target_dtype : dtype
        What batches of ``y`` are converted to; those of ``x`` become float32.
    """

    x: list[np.ndarray]
    y: np.ndarray
    target_dtype: np.dtype

    def __len__(self) -> int:
        return len(self.y)

    def draw_seed(self) -> int | None:
        """None: nothing is drawn at random."""
        return None

    def name_at(self, place: int) -> str:
        """What an error calls an example."""
        return f"x[{place}]"

    def batches(self, batch_size: int, order: np.ndarray | None = None, seed: int | None = None) -> Batches:
        """Batches in the given order of examples, or as they lie; the last may be smaller. ``seed`` changes nothing."""
        for start in range(0, len(self) if order is None else len(order), batch_size):
            where: Any = slice(start, start + batch_size)
            if order is not None:
                where = order[where]
            yield ([np.ascontiguousarray(a[where], FLOAT32) for a in self.x],
                   np.ascontiguousarray(self.y[where], self.target_dtype))

    def split(self, share: float) -> tuple[Dataset, Dataset]:
        """All but the last ``share`` of the examples, and those."""
        first = len(self) - int(len(self) * share)
        parts = slice(None, first), slice(first, None)
        before, after = (Dataset([a[part] for a in self.x], self.y[part], self.target_dtype) for part in parts)
        return before, after


def check_examples(where: str, x: Any, inputs: Sequence[Value], argument: str = "x") -> list[np.ndarray]:
    """The arrays of examples, one for each input of a model, not yet converted.

    Raises
    ------
    TypeError
        If they do not hold real numbers.
    ValueError
        If their number, rank, extents or lengths are wrong, or there is no example.
    """
    several = isinstance(x, (list, tuple)) and len(x) > 0 and isinstance(x[0], np.ndarray)
    given = list(x) if several and (len(inputs) > 1 or x[0].ndim == len(inputs[0].shape)) else [x]
    if len(given) != len(inputs):
        raise ValueError(message(where, argument, f"be a list of {len(inputs)} arrays", len(given)))
    arrays = [as_array(where, argument, a) for a in given]
    for array, value in zip(arrays, inputs, strict=True):
        if not matches(array.shape, value.shape):
            raise ValueError(message(where, argument, f"have shape {shown(value.shape)}", array))
        if len(array) != len(arrays[0]):
            raise ValueError(message(where, argument, f"have one length for all inputs ({len(arrays[0])})", array))
        if array.size == 0:
            raise ValueError(message(where, argument, "hold at least one example", array))
    return arrays


def check_targets(where: str, y: Any, n: int, argument: str = "y") -> np.ndarray:
    """The array of targets, as many as there are examples; the loss checks the rest.

    Raises
    ------
    TypeError
        If they are not real numbers.
    ValueError
        If there are not ``n`` of them.
    """
    array = as_array(where, argument, y)
    if array.ndim == 0 or len(array) != n:
        raise ValueError(message(where, argument, f"hold one target for each of the {n} examples", array))
    return array


def matches(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Whether examples of this shape are what is wanted, however many they are."""
    return len(shape) == len(wanted) and all(m in (None, n) for n, m in zip(shape[1:], wanted[1:], strict=True))


def shown(shape: Shape) -> str:
    """A shape in an error message: (N, 28, 28, 1)."""
    extents = ["N", *("any" if n is None else str(n) for n in shape[1:])]
    return f"({', '.join(extents)}{',' if len(extents) == 1 else ''})"


def as_array(where: str, argument: str, data: Any) -> np.ndarray:
    """Numbers as an array; texts, objects and complex numbers are refused."""
    if data is None:
        raise TypeError(message(where, argument, "hold real numbers; it is missing", data))
    try:
        array = np.asarray(data)
    except ValueError:  # rows of different lengths
        raise ValueError(message(where, argument, "be an array of numbers", type(data).__name__)) from None
    if array.dtype.kind not in "fiub":
        raise TypeError(message(where, argument, "hold real numbers", f"dtype {array.dtype}"))
    return array
