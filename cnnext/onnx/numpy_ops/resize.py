"""Resize and Upsample: one axis after the other, each a weighted sum of a few elements."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np

from cnnext.onnx.numpy_ops.common import (
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axes_of,
    content,
    given,
    integers,
    refuse,
    typed,
)
from cnnext.onnx.operator import Operator

_NEAREST: dict[str, Any] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5), "round_prefer_ceil": lambda x: np.floor(x + 0.5), "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized. `width` is the extent that the scale asks for, before it is rounded down to `target`."""

    axis: int
    size: int
    target: int
    scale: float
    width: float
    start: float = 0.0
    end: float = 1.0

    @property
    def is_identity(self) -> bool:
        return self.target == self.size and abs(self.scale - 1) < 1e-9 and self.start == 0 and self.end == 1


def _coordinates(op: Operator, a: _Axis) -> Array:
    """Where each element of the destination lies in the source; products come first, so that halves are exact."""
    x = np.arange(a.target, dtype=np.float64)
    mode = op.attributes.get("coordinate_transformation_mode", "half_pixel" if op.version >= 11 else "asymmetric")
    if mode == "asymmetric":
        return x / a.scale
    if mode == "align_corners":
        return x * (a.size - 1) / (a.width - 1) if a.width != 1 else np.zeros_like(x)
    if mode == "tf_crop_and_resize":
        if a.width == 1:
            return np.full_like(x, (a.start + a.end) * (a.size - 1) / 2)
        return x * (a.end - a.start) * (a.size - 1) / (a.width - 1) + a.start * (a.size - 1)
    half = (x + 0.5) / a.scale - 0.5
    if mode == "pytorch_half_pixel":
        return half if a.target > 1 else np.zeros_like(x)
    if mode in ("half_pixel", "tf_half_pixel_for_nn"):
        return half if mode == "half_pixel" else half + 0.5
    if mode == "half_pixel_symmetric":
        return a.size / 2 * (1 - a.target / a.width) + half
    raise refuse(op, "coordinate_transformation_mode", "be one that ONNX names", mode)


def _kernel(op: Operator, mode: str) -> tuple[int, Any]:
    """Half the support of the interpolation kernel, and the kernel: a function of the distance."""
    if mode == "linear":
        return 1, lambda d: np.maximum(0, 1 - np.abs(d))
    c = op.attributes.get("cubic_coeff_a", -0.75)

    def cubic(d: Array) -> Array:  # R. Keys, "Cubic convolution interpolation", 1981, equation 4
        d = np.abs(d)
        return np.where(d <= 1, ((c + 2) * d - (c + 3)) * d * d + 1,
                        np.where(d < 2, ((d - 5) * d + 8) * d * c - 4 * c, 0))
    return 2, cubic


def _taps(op: Operator, a: _Axis, x: Array, mode: str) -> tuple[Array, Array]:
    """Elements of the source and their weights, each (target, taps)."""
    half, kernel = _kernel(op, mode)
    squeeze = min(a.scale, 1.0) if op.attributes.get("antialias", 0) else 1.0
    reach = ceil(half / squeeze)
    at = np.floor(x)[:, None] + np.arange(1 - reach, reach + 1)
    weights = kernel((at - x[:, None]) * squeeze)
    if squeeze < 1:
        weights /= weights.sum(1, keepdims=True)
    if op.attributes.get("exclude_outside", 0):
        weights = np.where((at < 0) | (at > a.size - 1), 0, weights)
        total = weights.sum(1, keepdims=True)
        weights /= np.where(total == 0, 1, total)
    return np.clip(at, 0, a.size - 1).astype(np.intp), weights


def _resize_axis(op: Operator, x: Array, a: _Axis, mode: str) -> Array:
    at = _coordinates(op, a)
    behind = (1,) * (x.ndim - 1 - a.axis)
    if mode == "nearest":
        pick = _NEAREST.get(op.attributes.get("nearest_mode", "round_prefer_floor" if op.version >= 11 else "floor"))
        if pick is None:
            raise refuse(op, "nearest_mode", f"be one of {sorted(_NEAREST)}", op.attributes["nearest_mode"])
        y = x.take(np.clip(pick(at), 0, a.size - 1).astype(np.intp), a.axis)
    else:
        places, weights = _taps(op, a, at, mode)
        weights = weights.astype(x.dtype)
        y = np.zeros(x.shape[:a.axis] + (a.target,) + x.shape[a.axis + 1:], x.dtype)
        for k in range(places.shape[1]):
            y += x.take(places[:, k], a.axis) * weights[:, k].reshape((-1, *behind))
    if op.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        outside = ((at < 0) | (at > a.size - 1)).reshape((-1, *behind))
        y = np.where(outside, np.asarray(op.attributes.get("extrapolation_value", 0.0), y.dtype), y)
    return y


def _mode(op: Operator) -> str:
    mode = op.attributes.get("mode", "nearest")
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    if mode not in ("nearest", "linear", "cubic"):
        raise refuse(op, "mode", "be 'nearest', 'linear' or 'cubic'", mode)
    return mode


def _interpolate(op: Operator, x: Array, plan: list[_Axis]) -> Array:
    mode = _mode(op)
    plan = [a for a in plan if not a.is_identity]
    if 0 in x.shape or any(a.target == 0 for a in plan):
        return np.zeros([next((a.target for a in plan if a.axis == axis), n) for axis, n in enumerate(x.shape)], x.dtype)
    exact = mode == "nearest" or x.dtype in (np.float32, np.float64)
    y = x if exact else x.astype(np.float64 if x.dtype.kind in "iu" else np.float32)
    for a in sorted(plan, key=lambda a: a.target * x.size // a.size):  # what shrinks first
        y = _resize_axis(op, y, a, mode)
    if y.dtype == x.dtype:
        return y
    if x.dtype.kind in "iu":
        limits = np.iinfo(x.dtype)
        y = np.clip(np.rint(y), limits.min, limits.max)
    return y.astype(x.dtype)


# Targets ------------------------------------------------------------------------------------------------------------

def _by_scales(op: Operator, shape: tuple[int, ...], axes: tuple[int, ...], scales: list[float],
               roi: list[float]) -> list[_Axis]:
    if len(scales) != len(axes) or not all(0 < s < float("inf") for s in scales):
        raise refuse(op, "scales", f"be {len(axes)} positive numbers", scales)
    result = []
    for i, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        # In single precision, as everyone computes it: 10 * 1.9 is 19.
        target = floor(float(np.float32(shape[axis]) * np.float32(scale)))
        ends = (roi[i], roi[len(axes) + i]) if roi else (0.0, 1.0)
        result.append(_Axis(axis, shape[axis], target, scale, scale * shape[axis], *ends))
    return result


def _by_sizes(op: Operator, shape: tuple[int, ...], axes: tuple[int, ...], sizes: list[int],
              roi: list[float]) -> list[_Axis]:
    if len(sizes) != len(axes) or min(sizes, default=0) < 0 or any(shape[axis] == 0 for axis in axes):
        raise refuse(op, "sizes", f"be {len(axes)} extents, of axes that are not empty", sizes, f"source shape {shape}")
    ratios = [n / shape[axis] for n, axis in zip(sizes, axes, strict=True)]
    policy = op.attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        raise refuse(op, "keep_aspect_ratio_policy", "be 'stretch', 'not_larger' or 'not_smaller'", policy)
    if policy != "stretch":
        ratios = [(min if policy == "not_larger" else max)(ratios)] * len(axes)
        sizes = [floor(ratio * shape[axis] + 0.5) for ratio, axis in zip(ratios, axes, strict=True)]
    return [_Axis(axis, shape[axis], n, ratio, n if policy == "stretch" else ratio * shape[axis],
                  *((roi[i], roi[len(axes) + i]) if roi else (0.0, 1.0)))
            for i, (axis, n, ratio) in enumerate(zip(axes, sizes, ratios, strict=True))]


def _plan(op: Operator, types: Types, contents: Contents) -> list[_Axis] | None:
    shape = typed(types, 0)[1]
    axes = axes_of(op, integers(op, "axes", range(len(shape))), len(shape))
    new = op.version >= 11
    roi: list[float] = []
    if new and op.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        region = content(contents, 1)
        if region is not None and region.size != 2 * len(axes):
            raise refuse(op, "roi", f"have {2 * len(axes)} elements", region)
        if region is not None:  # the shape does not depend on it
            roi = [float(v) for v in region.tolist()]
    scales_at = 2 if new else 1
    if given(types, scales_at) and 0 not in typed(types, scales_at)[1]:
        scales = content(contents, scales_at)
        return None if scales is None else _by_scales(op, shape, axes, [float(s) for s in scales.ravel().tolist()], roi)
    if not given(types, 3):
        raise refuse(op, "scales", "be given, or sizes", None)
    sizes = content(contents, 3)
    return None if sizes is None else _by_sizes(op, shape, axes, [int(n) for n in sizes.ravel().tolist()], roi)


def _resize(op: Operator, x: Array, *operands: Array | None) -> Array:
    values = (x, *operands)
    plan = _plan(op, [None if v is None else (v.dtype, v.shape) for v in values], values)
    assert plan is not None
    return _interpolate(op, x, plan)


def _resized(types: Types, plan: list[_Axis] | None) -> list[TensorType] | None:
    if plan is None:
        return None
    dtype, shape = typed(types, 0)
    targets = {a.axis: a.target for a in plan}
    return [(dtype, tuple(targets.get(axis, n) for axis, n in enumerate(shape)))]


def _resize_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    return _resized(types, _plan(op, types, contents))


def _upsample_plan(op: Operator, types: Types, contents: Contents) -> list[_Axis] | None:
    shape = typed(types, 0)[1]
    if op.version >= 9:
        operand = content(contents, 1)
        if operand is None:
            return None
        scales = [float(s) for s in operand.ravel().tolist()]
    elif op.version >= 7:
        scales = [float(s) for s in op.attributes.get("scales", ())]
    else:
        scales = [1.0, 1.0, float(op.attributes.get("height_scale", 0)), float(op.attributes.get("width_scale", 0))]
    return _by_scales(op, shape, tuple(range(len(shape))), scales, [])


def _upsample(op: Operator, x: Array, scales: Array | None = None) -> Array:
    plan = _upsample_plan(op, [(x.dtype, x.shape)], (x, scales))
    assert plan is not None
    return _interpolate(op, x, plan)


def _upsample_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    return _resized(types, _upsample_plan(op, types, contents))


OPERATORS: dict[str, Function] = {"Resize": _resize, "Upsample": _upsample}
RULES: dict[str, Rule] = {"Resize": _resize_rule, "Upsample": _upsample_rule}
