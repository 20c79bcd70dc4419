"""Reductions over axes, running sums, extrema by index."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from cnnext.onnx.numpy_ops.common import (
    BOOL,
    INT64,
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axes_of,
    axis_of,
    operand,
    same,
    typed,
)
from cnnext.onnx.operator import Operator

Axes = tuple[int, ...]


def _axes(op: Operator, types: Types, contents: Contents) -> Axes | None:
    """Give the axes to reduce; those left out are all, or none where the operator says so. None if unknown."""
    rank = len(typed(types, 0)[1])
    axes = operand(op, types, contents, 1, "axes")
    if axes is None:
        return None
    if not axes:
        return () if op.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return axes_of(op, axes, rank)


def _reduction(function: Any) -> Function:
    def compute(op: Operator, x: Array, axes: Array | None = None) -> Array:
        types = [(x.dtype, x.shape), None if axes is None else (axes.dtype, axes.shape)]
        over = _axes(op, types, (x, axes))
        half = x.dtype.kind not in "iub" and x.dtype not in (np.float32, np.float64)
        y = function(x.astype(np.float32) if half else x, over, bool(op.attributes.get("keepdims", 1)))
        return np.asarray(y).astype(x.dtype, copy=False)
    return compute


def _rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    keep = op.attributes.get("keepdims", 1)
    axes = _axes(op, types, contents)
    if axes is None:
        if "noop_with_empty_axes" in op.attributes or not keep or prod(typed(types, 1)[1]) != len(shape) or not shape:
            return None
        axes = tuple(range(len(shape)))  # as many axes as there are must be all of them
    return [(dtype, tuple(1 if axis in axes else n for axis, n in enumerate(shape) if keep or axis not in axes))]


def _fold(ufunc: Any, x: Array, axes: Axes, keep: bool, **options: Any) -> Array:
    return ufunc.reduce(x, axes, keepdims=keep, **options)


def _sum(x: Array, axes: Axes, keep: bool) -> Array:
    return _fold(np.add, x, axes, keep, dtype=x.dtype)


def _mean(x: Array, axes: Axes, keep: bool) -> Array:
    return np.mean(x, axes, keepdims=keep)


def _prod(x: Array, axes: Axes, keep: bool) -> Array:
    return _fold(np.multiply, x, axes, keep, dtype=x.dtype)


def lowest(dtype: np.dtype) -> Any:
    """Give the neutral element of a maximum."""
    return False if dtype == BOOL else np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def highest(dtype: np.dtype) -> Any:
    """Give the neutral element of a minimum."""
    return True if dtype == BOOL else np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


def _max(x: Array, axes: Axes, keep: bool) -> Array:
    return _fold(np.maximum, x, axes, keep, initial=lowest(x.dtype))


def _min(x: Array, axes: Axes, keep: bool) -> Array:
    return _fold(np.minimum, x, axes, keep, initial=highest(x.dtype))


def _l2(x: Array, axes: Axes, keep: bool) -> Array:
    return np.sqrt(_sum(np.square(x), axes, keep))


def _log_sum_exp(x: Array, axes: Axes, keep: bool) -> Array:
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    top = _max(x, axes, True)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    y = np.log(_sum(np.exp(x - top), axes, True)) + top
    return y if keep else np.squeeze(y, axes)


_REDUCTIONS: dict[str, Any] = {
    "ReduceSum": _sum, "ReduceMean": _mean, "ReduceProd": _prod, "ReduceMax": _max, "ReduceMin": _min, "ReduceL2": _l2,
    "ReduceL1": lambda x, axes, keep: _sum(np.abs(x), axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: _sum(np.square(x), axes, keep),
    "ReduceLogSum": lambda x, axes, keep: np.log(_sum(x, axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _arg(largest: bool) -> Function:
    def compute(op: Operator, x: Array) -> Array:
        axis = axis_of(op, op.attributes.get("axis", 0), x.ndim)
        pick = np.argmax if largest else np.argmin
        if op.attributes.get("select_last_index", 0):
            index = x.shape[axis] - 1 - pick(np.flip(x, axis), axis)
        else:
            index = pick(x, axis)
        index = np.asarray(index, np.int64)
        return np.expand_dims(index, axis) if op.attributes.get("keepdims", 1) else index
    return compute


def _arg_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    shape = typed(types, 0)[1]
    axis = axis_of(op, op.attributes.get("axis", 0), len(shape))
    return [(INT64, (*shape[:axis], *((1,) if op.attributes.get("keepdims", 1) else ()), *shape[axis + 1:]))]


def _running(ufunc: Any, neutral: int) -> Function:
    def compute(op: Operator, x: Array, axis_operand: Array) -> Array:
        axis = axis_of(op, int(axis_operand.item()), x.ndim)
        x = np.flip(x, axis) if op.attributes.get("reverse", 0) else x
        y = ufunc.accumulate(x, axis, dtype=x.dtype)
        if op.attributes.get("exclusive", 0):
            ahead = np.full_like(np.take(y, [0], axis), neutral) if x.shape[axis] else y
            y = np.concatenate([ahead, np.delete(y, [-1], axis)], axis) if x.shape[axis] else y
        return np.flip(y, axis) if op.attributes.get("reverse", 0) else y
    return compute


OPERATORS: dict[str, Function] = {
    **{name: _reduction(function) for name, function in _REDUCTIONS.items()},
    "ArgMax": _arg(True), "ArgMin": _arg(False), "CumSum": _running(np.add, 0), "CumProd": _running(np.multiply, 1),
}
RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS, _rule), "ArgMax": _arg_rule, "ArgMin": _arg_rule, "CumSum": same, "CumProd": same,
}
