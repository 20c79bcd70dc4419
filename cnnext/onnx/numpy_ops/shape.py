"""Operators that make, move and regroup elements without looking at them."""

from __future__ import annotations

from itertools import accumulate
from math import ceil, prod
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.onnx.numpy_ops.common import (
    INT64,
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axes_of,
    axis_of,
    broadcast,
    content,
    given,
    integers,
    operand,
    refuse,
    typed,
)
from cnnext.onnx.numpy_ops.elementwise import target_dtype
from cnnext.onnx.operator import Operator

Shape = tuple[int, ...]


def _types(*arrays: Array | None) -> Types:
    return [None if x is None else (x.dtype, x.shape) for x in arrays]


def _shape(op: Operator, x: Array) -> Array:
    return np.asarray(_shape_slice(op, x.shape), np.int64)


def _shape_slice(op: Operator, shape: Shape) -> Shape:
    return shape[op.attributes.get("start", 0):op.attributes.get("end")]


def _shape_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(INT64, (len(_shape_slice(op, typed(types, 0)[1])),))]


def _size(op: Operator, x: Array) -> Array:
    return np.asarray(x.size, np.int64)


def _size_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(INT64, ())]


# Views --------------------------------------------------------------------------------------------------------------

def _reshaped(op: Operator, shape: Shape, target: list[int]) -> Shape:
    if not op.attributes.get("allowzero", 0):
        if any(t == 0 and i >= len(shape) for i, t in enumerate(target)):
            raise refuse(op, "shape", "copy extents that the data have", target, f"data shape {shape}")
        target = [shape[i] if t == 0 else t for i, t in enumerate(target)]
    size, rest = prod(shape), prod(t for t in target if t != -1)
    if target.count(-1) > 1 or min(target, default=0) < -1:
        raise refuse(op, "shape", "have no negative extent but one -1", target)
    if -1 in target:
        if rest == 0 or size % rest:
            raise refuse(op, "shape", "divide the elements of the data", target, f"data shape {shape}")
        target = [size // rest if t == -1 else t for t in target]
    if prod(target) != size:
        raise refuse(op, "shape", "keep the number of elements", target, f"data shape {shape}")
    return tuple(target)


def _reshape(op: Operator, x: Array, shape: Array | None = None) -> Array:
    return x.reshape(_reshape_rule(op, _types(x, shape), (x, shape))[0][1])  # type: ignore[index]


def _reshape_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    target = operand(op, types, contents, 1, "shape")
    if target is not None:
        return [(dtype, _reshaped(op, shape, target))]
    return [(dtype, (prod(shape),))] if typed(types, 1)[1] == (1,) else None  # one extent has all elements


def _flat_shape(op: Operator, shape: Shape) -> Shape:
    axis = op.attributes.get("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise refuse(op, "axis", f"lie in [{-len(shape)}, {len(shape)}]", axis)
    axis += len(shape) if axis < 0 else 0
    return prod(shape[:axis]), prod(shape[axis:])


def _flatten(op: Operator, x: Array) -> Array:
    return x.reshape(_flat_shape(op, x.shape))


def _flatten_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    dtype, shape = typed(types, 0)
    return [(dtype, _flat_shape(op, shape))]


def _squeeze(op: Operator, x: Array, axes: Array | None = None) -> Array:
    return x.reshape(_squeeze_rule(op, _types(x, axes), (x, axes))[0][1])  # type: ignore[index]


def _squeeze_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    axes = operand(op, types, contents, 1, "axes")
    if axes is None:
        return None
    if "axes" not in op.attributes and not given(types, 1):
        return [(dtype, tuple(n for n in shape if n != 1))]
    dropped = set(axes_of(op, axes, len(shape)))
    if any(shape[axis] != 1 for axis in dropped):
        raise refuse(op, "axes", "name axes of extent 1", axes, f"data shape {shape}")
    return [(dtype, tuple(n for axis, n in enumerate(shape) if axis not in dropped))]


def _unsqueeze(op: Operator, x: Array, axes: Array | None = None) -> Array:
    return x.reshape(_unsqueeze_rule(op, _types(x, axes), (x, axes))[0][1])  # type: ignore[index]


def _unsqueeze_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    axes = operand(op, types, contents, 1, "axes")
    if axes is None:
        return None
    new = set(axes_of(op, axes, len(shape) + len(axes)))
    rest = iter(shape)
    return [(dtype, tuple(1 if axis in new else next(rest) for axis in range(len(shape) + len(axes))))]


def _permutation(op: Operator, rank: int) -> list[int]:
    perm = integers(op, "perm", range(rank - 1, -1, -1))
    if sorted(axis % rank if rank else axis for axis in perm) != list(range(rank)):
        raise refuse(op, "perm", f"be a permutation of {rank} axes", perm)
    return perm


def _transpose(op: Operator, x: Array) -> Array:
    return x.transpose(_permutation(op, x.ndim))


def _transpose_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    dtype, shape = typed(types, 0)
    return [(dtype, tuple(shape[axis] for axis in _permutation(op, len(shape))))]


# Several arrays -----------------------------------------------------------------------------------------------------

def _concat_axis(op: Operator, rank: int) -> int:
    if "axis" not in op.attributes and op.version >= 4:
        raise refuse(op, "axis", "be given", None)
    return axis_of(op, op.attributes.get("axis", 1), rank)


def _concat(op: Operator, *xs: Array) -> Array:
    return np.concatenate(xs, axis=_concat_axis(op, xs[0].ndim))


def _concat_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, first), *rest = (typed(types, i) for i in range(len(types)))
    axis = _concat_axis(op, len(first))
    total = first[axis]
    for other, shape in rest:
        if other != dtype:
            raise TypeError(message(op.title, "inputs", "have one dtype", [dtype, other]))
        if len(shape) != len(first) or shape[:axis] != first[:axis] or shape[axis + 1:] != first[axis + 1:]:
            raise refuse(op, "inputs", f"have one shape except for axis {axis}", [first, shape])
        total += shape[axis]
    return [(dtype, (*first[:axis], total, *first[axis + 1:]))]


def _split_sizes(op: Operator, types: Types, contents: Contents, extent: int) -> list[int] | None:
    sizes = operand(op, types, contents, 1, "split")
    if sizes is None:
        return None
    if not sizes:
        count = op.attributes.get("num_outputs", len(op.wanted))
        if not 1 <= count <= max(1, len(op.wanted)):
            raise refuse(op, "num_outputs", f"be the number of outputs, {len(op.wanted)}", count)
        if extent % count and op.version < 18:
            raise refuse(op, "outputs", "divide the axis", count, f"extent {extent}")
        size = -(-extent // count)
        sizes = [max(0, min(size, extent - i * size)) for i in range(count)]
    if sum(sizes) != extent or min(sizes) < 0 or len(sizes) < len(op.wanted):
        raise refuse(op, "split", f"sum to the extent {extent}, one size for each output", sizes)
    return sizes


def _split(op: Operator, x: Array, split: Array | None = None) -> tuple[Array, ...]:
    axis = axis_of(op, op.attributes.get("axis", 0), x.ndim)
    sizes = _split_sizes(op, _types(x, split), (x, split), x.shape[axis])
    assert sizes is not None
    return tuple(np.split(x, list(accumulate(sizes))[:-1], axis))


def _split_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    axis = axis_of(op, op.attributes.get("axis", 0), len(shape))
    sizes = _split_sizes(op, types, contents, shape[axis])
    if sizes is None:
        return None
    return [(dtype, (*shape[:axis], size, *shape[axis + 1:])) for size in sizes[:len(op.wanted)]]


# New elements -------------------------------------------------------------------------------------------------------

def _extents(op: Operator, value: Array | None, name: str) -> Shape | None:
    if value is None:
        return None
    extents = tuple(int(n) for n in value.ravel().tolist())
    if min(extents, default=0) < 0:
        raise refuse(op, name, "not be negative", extents)
    return extents


def _expand(op: Operator, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, broadcast(op, x.shape, _extents(op, shape, "shape") or ()))


def _expand_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    target = _extents(op, content(contents, 1), "shape")
    return None if target is None else [(dtype, broadcast(op, shape, target))]


def _repeats(op: Operator, types: Types, contents: Contents, rank: int) -> Shape | None:
    repeats = _extents(op, content(contents, 1), "repeats")
    if op.version >= 6:
        if repeats is not None and len(repeats) != rank:
            raise refuse(op, "repeats", f"have {rank} elements", repeats)
        return repeats
    axis = content(contents, 2)
    if repeats is None or axis is None:
        return None
    at = axis_of(op, int(axis.item()), rank)
    return tuple(repeats[0] if i == at else 1 for i in range(rank))


def _tile(op: Operator, x: Array, repeats: Array, axis: Array | None = None) -> Array:
    return np.tile(x, _repeats(op, (), (x, repeats, axis), x.ndim) or ())


def _tile_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    repeats = _repeats(op, types, contents, len(shape))
    return None if repeats is None else [(dtype, tuple(n * r for n, r in zip(shape, repeats, strict=True)))]


_SCALARS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64,
            "value_string": object, "value_strings": object}


def _constant(op: Operator) -> Any:
    if "value" in op.attributes:
        return op.attributes["value"]
    for name, dtype in _SCALARS.items():
        if name in op.attributes:
            return np.asarray(op.attributes[name], dtype)
    return NotImplemented


def _constant_rule(op: Operator, types: Types, contents: Contents) -> Any:
    value = _constant(op)
    return value if value is NotImplemented else [(value.dtype, value.shape)]


def _fill(op: Operator) -> Array:
    value = op.attributes.get("value")
    if value is None:
        return np.zeros((), np.float32)
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise refuse(op, "value", "have one element", value)
    return value.reshape(())


def _constant_of_shape(op: Operator, shape: Array) -> Array:
    value = _fill(op)
    return np.full(_extents(op, shape, "input") or (), value, value.dtype)


def _constant_of_shape_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    shape = _extents(op, content(contents, 0), "input")
    return None if shape is None else [(_fill(op).dtype, shape)]


def _range_count(op: Operator, start: Array, limit: Array, delta: Array) -> int:
    if delta.item() == 0:
        raise refuse(op, "delta", "not be 0", 0)
    first, last, step = start.item(), limit.item(), delta.item()
    if start.dtype.kind in "iu":  # exact, where float64 has 53 bits
        return max(0, -((first - last) // step))
    return max(0, ceil((float(last) - float(first)) / float(step)))


def _range(op: Operator, start: Array, limit: Array, delta: Array) -> Array:
    steps = np.arange(_range_count(op, start, limit, delta))
    wide = np.float64 if start.dtype.kind not in "iu" else np.int64
    return (start.astype(wide) + steps * delta.astype(wide)).astype(start.dtype).reshape(-1)


def _range_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    start, limit, delta = (content(contents, i) for i in range(3))
    if start is None or limit is None or delta is None:
        return None
    return [(start.dtype, (_range_count(op, start, limit, delta),))]


def _eye_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    dtype, shape = typed(types, 0)
    return [(target_dtype(op, "dtype") if "dtype" in op.attributes else dtype, shape)]


# Pad and crop -------------------------------------------------------------------------------------------------------

def _pad_widths(op: Operator, types: Types, contents: Contents) -> list[tuple[int, int]] | None:
    rank = len(typed(types, 0)[1])
    pads = operand(op, types, contents, 1, "paddings" if op.version < 2 else "pads")
    axes = operand(op, types, contents, 3, "axes") if given(types, 3) else list(range(rank))
    if pads is None or axes is None:
        return None
    if len(pads) != 2 * len(axes):
        raise refuse(op, "pads", f"have {2 * len(axes)} elements", pads)
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes_of(op, axes, rank)):
        widths[axis] = pads[i], pads[len(axes) + i]
    return widths


def _pad(op: Operator, x: Array, pads: Array | None = None, value: Array | None = None, axes: Array | None = None) -> Array:
    widths = _pad_widths(op, _types(x, pads, value, axes), (x, pads, value, axes))
    assert widths is not None
    x = x[tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, widths, strict=True))]
    around = [(max(0, a), max(0, b)) for a, b in widths]
    mode = op.attributes.get("mode", "constant")
    if mode != "constant":
        return np.pad(x, around, mode=mode)
    fill = op.attributes.get("value", 0) if value is None else value.reshape(-1)[0]
    y = np.full([n + a + b for n, (a, b) in zip(x.shape, around, strict=True)], fill, x.dtype)
    y[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, around, strict=True))] = x
    return y


def _pad_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    dtype, shape = typed(types, 0)
    widths = _pad_widths(op, types, contents)
    if widths is None:
        return None
    result = tuple(n + a + b for n, (a, b) in zip(shape, widths, strict=True))
    if min(result, default=0) < 0:
        raise refuse(op, "pads", "leave no negative extent", widths, f"data shape {shape}")
    if op.attributes.get("mode", "constant") not in ("constant", "reflect", "edge", "wrap"):
        raise refuse(op, "mode", "be 'constant', 'reflect', 'edge' or 'wrap'", op.attributes["mode"])
    return [(dtype, result)]


def _center_shape(op: Operator, types: Types, contents: Contents) -> Shape | None:
    shape = typed(types, 0)[1]
    target = _extents(op, content(contents, 1), "shape")
    if target is None:
        return None
    axes = axes_of(op, integers(op, "axes", range(len(shape))), len(shape))
    if len(axes) != len(target):
        raise refuse(op, "shape", f"have {len(axes)} elements", target)
    result = list(shape)
    for axis, extent in zip(axes, target, strict=True):
        result[axis] = extent
    return tuple(result)


def _center_crop_pad(op: Operator, x: Array, shape: Array) -> Array:
    target = _center_shape(op, _types(x, shape), (x, shape))
    assert target is not None
    y = np.zeros(target, x.dtype)
    read, write = [], []
    for n, m in zip(x.shape, target, strict=True):
        common, crop, margin = min(n, m), max(0, n - m) // 2, max(0, m - n) // 2
        read.append(slice(crop, crop + common))
        write.append(slice(margin, margin + common))
    y[tuple(write)] = x[tuple(read)]
    return y


def _center_crop_pad_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    shape = _center_shape(op, types, contents)
    return None if shape is None else [(typed(types, 0)[0], shape)]


OPERATORS: dict[str, Function] = {
    "Shape": _shape, "Size": _size, "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Transpose": _transpose, "Concat": _concat, "Split": _split, "Expand": _expand, "Tile": _tile, "Constant": _constant,
    "ConstantOfShape": _constant_of_shape, "Range": _range, "Pad": _pad, "CenterCropPad": _center_crop_pad,
}
RULES: dict[str, Rule] = {
    "Shape": _shape_rule, "Size": _size_rule, "Reshape": _reshape_rule, "Flatten": _flatten_rule, "Squeeze": _squeeze_rule,
    "Unsqueeze": _unsqueeze_rule, "Transpose": _transpose_rule, "Concat": _concat_rule, "Split": _split_rule,
    "Expand": _expand_rule, "Tile": _tile_rule, "Constant": _constant_rule, "ConstantOfShape": _constant_of_shape_rule,
    "Range": _range_rule, "EyeLike": _eye_rule, "Pad": _pad_rule, "CenterCropPad": _center_crop_pad_rule,
}
