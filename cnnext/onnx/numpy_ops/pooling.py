"""Pooling in any number of spatial axes, one axis after the other.

Maxima and sums over a box are maxima and sums over its rows, then over its columns: so each axis is one loop over slices,
one for each tap or for each window, whichever are fewer, and nothing is padded.
"""

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
    content,
    given,
    refuse,
    typed,
    widened,
)
from cnnext.onnx.numpy_ops.reduce import lowest
from cnnext.onnx.numpy_ops.window import Window, pads_of, positive, windows
from cnnext.onnx.operator import Operator


def _windows(op: Operator, shape: tuple[int, ...]) -> list[Window]:
    if len(shape) < 3:
        raise refuse(op, "X", "have batch, channels and spatial axes", shape)
    if "kernel_shape" not in op.attributes:
        raise refuse(op, "kernel_shape", "be given", None)
    return windows(op, shape[2:], ())


def _at(axis: int, where: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (where,)


def slide(x: Array, axis: int, window: Window, ufunc: Any, empty: Any) -> Array:
    """Reduce `x` over the windows along one axis; `empty` stands where a window meets nothing."""
    y = np.full(x.shape[:axis] + (window.count,) + x.shape[axis + 1:], empty, x.dtype)
    if window.count < window.kernel:
        for o in range(window.count):
            read = x[_at(axis, window.reads(o))]
            if read.shape[axis]:
                y[_at(axis, slice(o, o + 1))] = ufunc.reduce(read, axis, keepdims=True, dtype=x.dtype)
    else:
        for _, wins, elements in window.taps():
            part = y[_at(axis, wins)]
            ufunc(part, x[_at(axis, elements)], out=part)
    return y


def _slide_all(x: Array, wins: list[Window], ufunc: Any, empty: Any) -> Array:
    for axis, window in reversed(list(enumerate(wins, start=2))):
        x = slide(x, axis, window, ufunc, empty)
    return x


def _with_indices(x: Array, wins: list[Window]) -> tuple[Array, Array]:
    """Maxima and their spatial indices, one array for each axis; of equals the first in row-major order."""
    places = [np.broadcast_to(np.arange(n).reshape((n,) + (1,) * (x.ndim - 3 - axis)), x.shape)
              for axis, n in enumerate(x.shape[2:])]
    for axis, window in reversed(list(enumerate(wins, start=2))):
        shape = x.shape[:axis] + (window.count,) + x.shape[axis + 1:]
        y, indices = np.full(shape, lowest(x.dtype), x.dtype), [np.full(shape, -1, np.int64) for _ in places]
        for _, o, i in window.taps():
            taken, best = x[_at(axis, i)], y[_at(axis, o)]
            better = (taken > best) | (indices[0][_at(axis, o)] < 0)
            np.copyto(best, taken, where=better)
            for new, old in zip(indices, places, strict=True):
                np.copyto(new[_at(axis, o)], old[_at(axis, i)], where=better)
        x, places = y, indices
    return x, np.stack(places)


def _max_pool(op: Operator, x: Array) -> Any:
    wins = _windows(op, x.shape)
    if len(op.wanted) < 2 or not op.wanted[1]:
        return _slide_all(x, wins, np.maximum, lowest(x.dtype))
    y, places = _with_indices(x, wins)
    spatial = x.shape[2:]
    if op.attributes.get("storage_order", 0):  # column major
        flat = sum(place * prod(spatial[:axis]) for axis, place in enumerate(places))
    else:
        flat = sum(place * prod(spatial[axis + 1:]) for axis, place in enumerate(places))
    planes = np.arange(prod(x.shape[:2])).reshape(x.shape[:2] + (1,) * len(spatial))
    return y, (flat + planes * prod(spatial)).astype(np.int64)


def _average_pool(op: Operator, x: Array) -> Array:
    wins = _windows(op, x.shape)
    total = _slide_all(widened(x), wins, np.add, 0)
    for axis, window in enumerate(wins):
        # What lies beyond the padding, which ceil_mode reaches, never counts.
        padded = np.ones(window.before + window.size + window.after)
        if not op.attributes.get("count_include_pad", 0):
            padded[:window.before] = padded[window.before + window.size:] = 0
        whole = Window(padded.size, window.kernel, window.stride, window.dilation, 0, 0, window.count)
        count = slide(padded, 0, whole, np.add, 0).astype(total.dtype)
        total /= count.reshape((-1,) + (1,) * (len(wins) - 1 - axis))
    return total.astype(x.dtype, copy=False)


def _lp_pool(op: Operator, x: Array) -> Array:
    p = op.attributes.get("p", 2)
    total = _slide_all(np.abs(widened(x)) ** p, _windows(op, x.shape), np.add, 0)
    return (total ** (1 / p)).astype(x.dtype, copy=False)


def _pool_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    dtype, shape = typed(types, 0)
    result = (*shape[:2], *(w.count for w in _windows(op, shape)))
    return [(dtype, result), (INT64, result)][:len(op.wanted)]


def _global(function: Any) -> Function:
    def compute(op: Operator, x: Array) -> Array:
        return np.asarray(function(op, x, tuple(range(2, x.ndim)))).astype(x.dtype, copy=False)
    return compute


def _global_lp(op: Operator, x: Array, axes: tuple[int, ...]) -> Array:
    p = op.attributes.get("p", 2)
    return np.sum(np.abs(widened(x)) ** p, axes, keepdims=True) ** (1 / p)


def _global_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    dtype, shape = typed(types, 0)
    return [(dtype, shape[:2] + (1,) * len(shape[2:]))]


# The inverse of MaxPool ---------------------------------------------------------------------------------------------

def _unpooled(op: Operator, shape: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(shape) - 2
    kernel, strides = positive(op, "kernel_shape", rank, ()), positive(op, "strides", rank)
    return (*shape[:2], *((n - 1) * s - before - after + k for n, s, k, (before, after)
                          in zip(shape[2:], strides, kernel, pads_of(op, rank), strict=True)))


def _max_unpool(op: Operator, x: Array, indices: Array, output_shape: Array | None = None) -> Array:
    inner = _unpooled(op, x.shape)
    y = np.zeros(prod(inner), x.dtype)
    y[indices.ravel()] = x.ravel()
    y = y.reshape(inner)
    if output_shape is None:
        return y
    # The indices refer to the shape that the attributes give; what the caller asks for is that one with a margin behind.
    whole = np.zeros(output_shape.tolist(), x.dtype)
    common = tuple(slice(min(a, b)) for a, b in zip(whole.shape, inner, strict=True))
    whole[common] = y[common]
    return whole


def _max_unpool_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    inner = _unpooled(op, shape)
    if min(inner) < 0:
        raise refuse(op, "pads", "leave no negative extent", inner)
    if not given(types, 2):
        return [(dtype, inner)]
    target = content(contents, 2)
    if target is None:
        return None
    if target.size != len(shape) or target.min() < 0:
        raise refuse(op, "output_shape", f"have {len(shape)} extents", target.tolist())
    return [(dtype, tuple(target.tolist()))]


OPERATORS: dict[str, Function] = {
    "MaxPool": _max_pool, "AveragePool": _average_pool, "LpPool": _lp_pool, "MaxUnpool": _max_unpool,
    "GlobalMaxPool": _global(lambda op, x, axes: np.max(x, axes, keepdims=True)),
    "GlobalAveragePool": _global(lambda op, x, axes: np.mean(widened(x), axes, keepdims=True)),
    "GlobalLpPool": _global(_global_lp),
}
RULES: dict[str, Rule] = {
    "MaxPool": _pool_rule, "AveragePool": _pool_rule, "LpPool": _pool_rule, "MaxUnpool": _max_unpool_rule,
    "GlobalMaxPool": _global_rule, "GlobalAveragePool": _global_rule, "GlobalLpPool": _global_rule,
}
