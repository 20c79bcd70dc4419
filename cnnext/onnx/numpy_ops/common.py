"""What the families of operators share: types, refusals, attributes, shape rules that many use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.onnx.operator import Operator

Array = np.ndarray
TensorType = tuple[np.dtype, tuple[int, ...]]
Types = Sequence[TensorType | None]
Contents = Sequence[Array | None]
# (operator, *inputs) -> one array or a tuple of them; NotImplemented leaves the case to the reference implementation.
Function = Callable[..., Any]
Rule = Callable[[Operator, Types, Contents], list[TensorType] | None]

BOOL: np.dtype = np.dtype(np.bool_)
INT64: np.dtype = np.dtype(np.int64)
UINT8: np.dtype = np.dtype(np.uint8)
FLOAT32: np.dtype = np.dtype(np.float32)


def refuse(op: Operator, argument: str, rule: str, value: object, context: str = "") -> ValueError:
    """Build the error that refuses an attribute, an input or a shape."""
    return ValueError(message(op.title, argument, rule, value, context))


def integers(op: Operator, name: str, default: Sequence[int] = (), count: int | None = None) -> list[int]:
    """Give the attribute `name`, a list of ints; `count` is the length it must have."""
    values = op.attributes.get(name)
    if values is None:
        return list(default)
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(isinstance(v, int) for v in values):
        raise TypeError(message(op.title, name, "be a list of integers", values))
    if count is not None and len(values) != count:
        raise refuse(op, name, f"have {count} elements", values)
    return list(values)


def axis_of(op: Operator, axis: int, rank: int, name: str = "axis") -> int:
    """Count `axis` from the front; `rank` is the number of axes."""
    if not -rank <= axis < rank:
        raise refuse(op, name, f"lie in [{-rank}, {rank - 1}]", axis)
    return axis % rank


def axes_of(op: Operator, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Count `axes` from the front, each at most once."""
    result = tuple(axis_of(op, int(axis), rank, "axes") for axis in axes)
    if len(set(result)) != len(result):
        raise refuse(op, "axes", "differ", axes)
    return result


def typed(types: Types, index: int) -> TensorType:
    """Give the type of an input that the operator cannot do without."""
    value = types[index] if index < len(types) else None
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def content(contents: Contents, index: int) -> Array | None:
    """Give the content of an input where it is known."""
    return contents[index] if index < len(contents) else None


def given(types: Types, index: int) -> bool:
    """Whether an input is there at all."""
    return index < len(types) and types[index] is not None


def operand(op: Operator, types: Types, contents: Contents, index: int, name: str) -> list[int] | None:
    """Give an operand that is a list of ints: from the attribute `name` of older versions or an input; None if unknown.

    What is neither an attribute nor an input is the empty list.
    """
    if name in op.attributes:
        return integers(op, name)
    if not given(types, index):
        return []
    value = content(contents, index)
    return None if value is None else [int(v) for v in value.ravel().tolist()]


def broadcast(op: Operator, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Broadcast shapes as NumPy does."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result = []
    for extents in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        others = {n for n in extents if n != 1}
        if len(others) > 1:
            raise refuse(op, "shapes", "broadcast", shapes)
        result.append(others.pop() if others else 1)
    return tuple(result)


def wide_dtype(dtype: np.dtype) -> np.dtype:
    """Give the dtype to compute in: half floats lose digits in every step of a formula, and are rounded once instead."""
    return dtype if dtype in (np.float32, np.float64) else FLOAT32


def widened(x: Array) -> Array:
    """Give `x` in the dtype to compute in."""
    return x.astype(wide_dtype(x.dtype), copy=False)


def same(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    """Shape rule: as the first input."""
    return [typed(types, 0)]
