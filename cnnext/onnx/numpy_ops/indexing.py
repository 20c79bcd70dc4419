"""Operators that take, put and rank elements by index."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from cnnext.onnx.numpy_ops.common import (
    INT64,
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axis_of,
    content,
    operand,
    refuse,
    same,
    typed,
)
from cnnext.onnx.operator import Operator

_REDUCTIONS: dict[str, Any] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _gather(op: Operator, x: Array, indices: Array) -> Array:
    return x.take(indices, axis_of(op, op.attributes.get("axis", 0), x.ndim))


def _gather_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, shape), (_, indices) = typed(types, 0), typed(types, 1)
    axis = axis_of(op, op.attributes.get("axis", 0), len(shape))
    return [(dtype, (*shape[:axis], *indices, *shape[axis + 1:]))]


def _along(indices: Array, axis: int) -> tuple[Array, ...]:
    """Index arrays that walk all axes of `indices` but `axis`, where it gives the index."""
    grid = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    grid[axis] = indices
    return tuple(grid)


def _gather_elements(op: Operator, x: Array, indices: Array) -> Array:
    return x[_along(indices, axis_of(op, op.attributes.get("axis", 0), x.ndim))]


def _gather_elements_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, shape), (_, indices) = typed(types, 0), typed(types, 1)
    if len(shape) != len(indices):
        raise refuse(op, "indices", "have as many axes as the data", indices, f"data shape {shape}")
    return [(dtype, indices)]


def _gather_nd(op: Operator, x: Array, indices: Array) -> Array:
    batch = op.attributes.get("batch_dims", 0)
    depth = indices.shape[-1]
    n = prod(x.shape[:batch])
    rows = np.arange(n).reshape(-1, 1)
    at = indices.reshape(n, -1, depth) if indices.size else np.zeros((n, prod(indices.shape[batch:-1]), depth), np.int64)
    taken = x.reshape(n, *x.shape[batch:])[(rows, *(at[..., i] for i in range(depth)))]
    return taken.reshape(*x.shape[:batch], *indices.shape[batch:-1], *x.shape[batch + depth:])


def _gather_nd_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, shape), (_, indices) = typed(types, 0), typed(types, 1)
    batch = op.attributes.get("batch_dims", 0)
    if not indices or not 0 <= batch < min(len(shape), len(indices)) or indices[:batch] != shape[:batch]:
        raise refuse(op, "batch_dims", "count leading axes that data and indices share", batch, f"shapes {shape}, {indices}")
    if not 1 <= indices[-1] <= len(shape) - batch:
        raise refuse(op, "indices", f"address 1 to {len(shape) - batch} axes", indices)
    return [(dtype, (*indices[:-1], *shape[batch + indices[-1]:]))]


def _put(op: Operator, x: Array, at: tuple[Array, ...], updates: Array) -> Array:
    y = x.copy()
    reduction = op.attributes.get("reduction", "none")
    if reduction == "none":
        y[at] = updates
    elif reduction in _REDUCTIONS:
        _REDUCTIONS[reduction].at(y, at, updates)
    else:
        raise refuse(op, "reduction", f"be 'none' or one of {sorted(_REDUCTIONS)}", reduction)
    return y


def _scatter_elements(op: Operator, x: Array, indices: Array, updates: Array) -> Array:
    if indices.ndim != x.ndim or indices.shape != updates.shape:
        raise refuse(op, "indices", "have the shape of the updates and as many axes as the data", indices.shape)
    return _put(op, x, _along(indices, axis_of(op, op.attributes.get("axis", 0), x.ndim)), updates)


def _scatter_nd(op: Operator, x: Array, indices: Array, updates: Array) -> Array:
    if not 1 <= indices.shape[-1] <= x.ndim or updates.shape != indices.shape[:-1] + x.shape[indices.shape[-1]:]:
        raise refuse(op, "updates", "have the shape that data and indices give", updates.shape)
    return _put(op, x, tuple(np.moveaxis(indices, -1, 0)), updates)


# Slices -------------------------------------------------------------------------------------------------------------

def _slices(op: Operator, types: Types, contents: Contents) -> list[slice] | None:
    shape = typed(types, 0)[1]
    starts, ends, axes, steps = (operand(op, types, contents, i, name)
                                 for i, name in enumerate(("starts", "ends", "axes", "steps"), start=1))
    if starts is None or ends is None or axes is None or steps is None:
        return None
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise refuse(op, "starts", "have as many elements as ends, axes and steps", starts)
    if 0 in steps:
        raise refuse(op, "steps", "not be 0", steps)
    result = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(op, axis, len(shape), "axes")
        # ONNX clamps as Python does, but for a backward start before the first element, which is the first element.
        result[axis] = slice(max(start, -shape[axis]) if step < 0 else start, end, step)
    return result


def _slice(op: Operator, x: Array, *operands: Array | None) -> Array:
    values = (x, *operands)
    slices = _slices(op, [None if v is None else (v.dtype, v.shape) for v in values], values)
    assert slices is not None
    return x[tuple(slices)]


def _slice_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    slices = _slices(op, types, contents)
    if slices is None:
        return None
    return [(dtype, tuple(len(range(*s.indices(n))) for s, n in zip(slices, shape, strict=True)))]


# Sets and ranks -----------------------------------------------------------------------------------------------------

def _one_hot(op: Operator, indices: Array, depth: Array, values: Array) -> Array:
    n = int(depth.item())
    axis = axis_of(op, op.attributes.get("axis", -1), indices.ndim + 1)
    hot = indices.astype(np.int64)
    hot = np.expand_dims(np.where(hot < 0, hot + n, hot), axis)
    classes = np.arange(n).reshape((n,) + (1,) * (indices.ndim - axis))
    return np.where(hot == classes, values[1], values[0]).astype(values.dtype, copy=False)


def _one_hot_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    shape, depth, dtype = typed(types, 0)[1], content(contents, 1), typed(types, 2)[0]
    if depth is None:
        return None
    n = int(depth.item())
    if n < 0:
        raise refuse(op, "depth", "not be negative", n)
    axis = axis_of(op, op.attributes.get("axis", -1), len(shape) + 1)
    return [(dtype, (*shape[:axis], n, *shape[axis:]))]


def _nonzero(op: Operator, x: Array) -> Array:
    if x.ndim == 0:
        return np.zeros((0, int(bool(x))), np.int64)
    return np.asarray(np.nonzero(x), np.int64)


def _nonzero_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    x = content(contents, 0)
    return None if x is None else [(INT64, (x.ndim, int(np.count_nonzero(x))))]


def _compress(op: Operator, x: Array, condition: Array) -> Array:
    axis = op.attributes.get("axis")
    return np.compress(condition, x, None if axis is None else axis_of(op, axis, x.ndim))


def _compress_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    (dtype, shape), condition, axis = typed(types, 0), content(contents, 1), op.attributes.get("axis")
    if condition is None:
        return None
    n = int(np.count_nonzero(condition))
    if axis is None:
        return [(dtype, (n,))]
    axis = axis_of(op, axis, len(shape))
    return [(dtype, (*shape[:axis], n, *shape[axis + 1:]))]


def _top_k_count(op: Operator, contents: Contents, shape: tuple[int, ...]) -> int | None:
    axis = axis_of(op, op.attributes.get("axis", -1), len(shape))
    k: Any = op.attributes.get("k") if op.version < 10 else content(contents, 1)
    if k is None:
        return None
    k = int(k if isinstance(k, int) else k.item())
    if not 0 <= k <= shape[axis]:
        raise refuse(op, "k", f"lie in [0, {shape[axis]}]", k)
    return k


def _best(row: Array, k: int, largest: bool) -> Array:
    """Indices of the k best of one row, best first, the first of equals first."""
    if 0 < 8 * k < row.size and row.dtype.kind in "iuf":
        # Only what reaches the k-th best is sorted: all of them, so that the first of equals are among them.
        limit = np.partition(row, row.size - k)[row.size - k] if largest else np.partition(row, k - 1)[k - 1]
        kept = np.flatnonzero(row >= limit if largest else row <= limit)
        if kept.size >= k:  # not so among NaN
            return kept[_ranked(row[kept], largest)[:k]]
    return _ranked(row, largest)[:k]


def _ranked(x: Array, largest: bool) -> Array:
    if not largest:
        return np.argsort(x, axis=-1, kind="stable")
    return x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]


def _top_k(op: Operator, x: Array, k_operand: Array | None = None) -> tuple[Array, Array]:
    k = _top_k_count(op, (x, k_operand), x.shape)
    assert k is not None
    axis = axis_of(op, op.attributes.get("axis", -1), x.ndim)
    largest = bool(op.attributes.get("largest", 1))
    last = np.moveaxis(x, axis, -1)
    if prod(last.shape[:-1]) <= 64:
        rows = last.reshape(-1, last.shape[-1])
        best = np.asarray([_best(row, k, largest) for row in rows], np.int64).reshape(*last.shape[:-1], k)
    else:
        best = _ranked(last, largest)[..., :k]
    values = np.take_along_axis(last, best, -1)
    return np.moveaxis(values, -1, axis), np.moveaxis(best, -1, axis).astype(np.int64, copy=False)


def _top_k_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    k = _top_k_count(op, contents, shape)
    if k is None:
        return None
    axis = axis_of(op, op.attributes.get("axis", -1), len(shape))
    result = (*shape[:axis], k, *shape[axis + 1:])
    return [(dtype, result), (INT64, result)][:len(op.wanted)]


OPERATORS: dict[str, Function] = {
    "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd, "ScatterElements": _scatter_elements,
    "Scatter": _scatter_elements, "ScatterND": _scatter_nd, "Slice": _slice, "OneHot": _one_hot, "NonZero": _nonzero,
    "Compress": _compress, "TopK": _top_k,
}
RULES: dict[str, Rule] = {
    "Gather": _gather_rule, "GatherElements": _gather_elements_rule, "GatherND": _gather_nd_rule, "ScatterElements": same,
    "Scatter": same, "ScatterND": same, "Slice": _slice_rule, "OneHot": _one_hot_rule, "NonZero": _nonzero_rule,
    "Compress": _compress_rule, "TopK": _top_k_rule,
}
