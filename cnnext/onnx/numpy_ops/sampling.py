"""Sampling at computed places: GridSample, AffineGrid, DeformConv."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from cnnext.onnx.numpy_ops.common import (
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    content,
    integers,
    refuse,
    typed,
    wide_dtype,
)
from cnnext.onnx.numpy_ops.convolution import groups_of
from cnnext.onnx.numpy_ops.window import windows
from cnnext.onnx.operator import Operator

Taps = tuple[Array, Array]  # for one axis: indices and weights, each (points, taps)
_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}


def gather(x: Array, taps: Sequence[Taps]) -> Array:
    """Interpolate (C, spatial axes) at points whose taps are given axis by axis: (C, points)."""
    flat = x.reshape(x.shape[0], -1)
    strides = [prod(x.shape[axis + 2:]) for axis in range(len(taps))]
    y = np.zeros((x.shape[0], taps[0][0].shape[0]), x.dtype)
    for ks in product(*(range(places.shape[1]) for places, _ in taps)):
        place = sum(places[:, k] * stride for k, (places, _), stride in zip(ks, taps, strides, strict=True))
        weight = prod(weights[:, k] for k, (_, weights) in zip(ks, taps, strict=True))
        y += flat.take(place, 1) * weight
    return y


def _reflect(x: Array, low: float, high: float) -> Array:
    """Reflect at the ends of [low, high] until inside."""
    span = high - low
    if span <= 0:
        return np.full_like(x, low)
    turn = np.mod(np.abs(x - low), 2 * span)
    return low + np.where(turn > span, 2 * span - turn, turn)


def _cubic_weights(fraction: Array) -> Array:
    """Weights of 4 taps (Keys, 1981, with the coefficient -0.75)."""
    c, d = -0.75, fraction[:, None] + np.array([1, 0, -1, -2], fraction.dtype)
    d = np.abs(d)
    return np.where(d <= 1, ((c + 2) * d - (c + 3)) * d * d + 1, ((d - 5) * d + 8) * d * c - 4 * c)


def axis_taps(x: Array, size: int, mode: str, padding: str, low: float, high: float) -> Taps:
    """Indices and weights of one axis for the coordinates `x`; weights of 0 stand for what lies outside."""
    x = np.rint(x) if mode == "nearest" else x
    if padding == "reflection":
        x = np.where(np.isfinite(x), x, 0)
        x = x if mode == "cubic" else _reflect(x, low, high)  # the cubic kernel's taps are reflected one by one
    else:  # beyond the last tap there is nothing more to see; a NaN sees nothing either
        margin = 0 if padding == "border" and mode != "cubic" else 3
        x = np.clip(np.where(np.isnan(x), -3, x), -margin, size - 1 + margin)
    first = np.floor(x)
    if mode == "nearest":
        at, weights = first[:, None], np.ones((x.size, 1), x.dtype)
    elif mode == "linear":
        at, weights = first[:, None] + np.array([0, 1], x.dtype), np.stack([1 - (x - first), x - first], 1)
    else:
        at, weights = first[:, None] + np.array([-1, 0, 1, 2], x.dtype), _cubic_weights(x - first)
    if padding == "zeros":
        weights = np.where((at < 0) | (at > size - 1), 0, weights)
    elif padding == "reflection":
        at = _reflect(at, low, high)
    return np.clip(at, 0, size - 1).astype(np.intp), weights.astype(x.dtype, copy=False)


def _grid_sample(op: Operator, x: Array, grid: Array) -> Array:
    mode = _MODES.get(op.attributes.get("mode", "linear" if op.version >= 20 else "bilinear"))
    padding = op.attributes.get("padding_mode", "zeros")
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise refuse(op, "mode", "be 'linear', 'nearest' or 'cubic', and padding_mode 'zeros', 'border' or 'reflection'",
                     op.attributes.get("mode"), f"padding_mode {padding!r}")
    wide, align = wide_dtype(x.dtype), bool(op.attributes.get("align_corners", 0))
    y = np.zeros((*x.shape[:2], prod(grid.shape[1:-1])), wide)
    if y.size and not x.size:
        raise refuse(op, "X", "not be empty", x.shape)
    for n in range(x.shape[0]):
        points = grid[n].reshape(-1, grid.shape[-1])[:, ::-1].astype(wide)  # the grid names the last axis first
        taps = []
        for axis, size in enumerate(x.shape[2:]):
            g = points[:, axis]
            at = (g + 1) / 2 * (size - 1) if align else ((g + 1) * size - 1) / 2
            taps.append(axis_taps(at, size, mode, padding, *((0, size - 1) if align else (-0.5, size - 0.5))))
        y[n] = gather(x[n].astype(wide, copy=False), taps)
    return y.reshape(*x.shape[:2], *grid.shape[1:-1]).astype(x.dtype, copy=False)


def _grid_sample_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, x), (_, grid) = typed(types, 0), typed(types, 1)
    if len(x) < 3 or len(grid) != len(x) or grid[0] != x[0] or grid[-1] != len(x) - 2:
        raise refuse(op, "grid", "have the batch of X and one coordinate for each spatial axis", grid, f"source shape {x}")
    return [(dtype, (*x[:2], *grid[1:-1]))]


def _affine_grid(op: Operator, theta: Array, size: Array) -> Array:
    extents = [int(n) for n in size.tolist()[2:]]
    axes = []
    for n in extents:
        if op.attributes.get("align_corners", 0):
            axes.append(np.linspace(-1, 1, n) if n > 1 else np.zeros(n))
        else:
            axes.append((2 * np.arange(n) + 1) / max(n, 1) - 1)
    places = np.meshgrid(*axes, indexing="ij")
    base = np.stack([*reversed(places), np.ones(extents)], -1).reshape(-1, len(extents) + 1)  # x, y, (z,) 1
    grid = base @ theta.astype(np.float64).swapaxes(1, 2)
    return grid.reshape(theta.shape[0], *extents, len(extents)).astype(theta.dtype)


def _affine_grid_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    (dtype, theta), size = typed(types, 0), content(contents, 1)
    rank = theta[1] if len(theta) == 3 else 0
    if rank not in (2, 3) or theta[2] != rank + 1:
        raise refuse(op, "theta", "have the shape (N, 2, 3) or (N, 3, 4)", theta)
    if size is None:
        return None
    extents = [int(n) for n in size.tolist()]
    if len(extents) != rank + 2 or min(extents) < 0 or extents[0] != theta[0]:
        raise refuse(op, "size", f"be N, C and {rank} extents", extents)
    return [(dtype, (theta[0], *extents[2:], rank))]


# Deformable convolution ---------------------------------------------------------------------------------------------

def _deform_shapes(op: Operator, x: tuple[int, ...], w: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the result, from the offsets' shape."""
    groups_of(op, x, w)
    og = op.attributes.get("offset_group", 1)
    if len(x) != 4 or not isinstance(og, int) or og < 1 or x[1] % og:
        raise refuse(op, "offset_group", "divide the channels of a source (N, C, H, W)", og, f"source shape {x}")
    counts = tuple(win.count for win in windows(op, x[2:], integers(op, "kernel_shape", w[2:])))
    if offset != (x[0], og * w[2] * w[3] * 2, *counts):
        raise refuse(op, "offset", f"have the shape {(x[0], og * w[2] * w[3] * 2, *counts)}", offset)
    return counts[0], counts[1]


def _deform_conv(op: Operator, x: Array, w: Array, offset: Array, b: Array | None = None,
                 mask: Array | None = None) -> Array:
    counts = _deform_shapes(op, x.shape, w.shape, offset.shape)
    wide, og, group = wide_dtype(x.dtype), op.attributes.get("offset_group", 1), op.attributes.get("group", 1)
    wins = windows(op, x.shape[2:], w.shape[2:])
    kernel = w.shape[2:]
    # Where the taps lie before they are moved: (KH, KW, OH, OW) for each of the two axes.
    rows, columns = (np.arange(win.kernel)[:, None] * win.dilation + np.arange(win.count) * win.stride - win.before
                     for win in wins)
    moved = offset.reshape(x.shape[0], og, *kernel, 2, *counts).astype(wide)
    at_y = moved[:, :, :, :, 0] + rows[:, None, :, None].astype(wide)
    at_x = moved[:, :, :, :, 1] + columns[None, :, None, :].astype(wide)
    factor = None if mask is None else mask.reshape(x.shape[0], og, 1, -1).astype(wide)
    patches = np.empty((x.shape[0], og, x.shape[1] // og, prod(kernel) * prod(counts)), wide)
    parts = x.astype(wide, copy=False).reshape(x.shape[0], og, -1, *x.shape[2:])
    for n, g in np.ndindex(x.shape[0], og):
        taps = [axis_taps(at[n, g].ravel(), size, "linear", "zeros", 0, 0)
                for at, size in zip((at_y, at_x), x.shape[2:], strict=True)]
        patches[n, g] = gather(parts[n, g], taps)
        if factor is not None:
            patches[n, g] *= factor[n, g]
    columns_of = patches.reshape(x.shape[0], group, w.shape[1] * prod(kernel), prod(counts))
    y = (w.astype(wide, copy=False).reshape(group, w.shape[0] // group, -1) @ columns_of).reshape(x.shape[0], -1, *counts)
    y = y if b is None else y + b.astype(wide).reshape(-1, 1, 1)
    return y.astype(x.dtype, copy=False)


def _deform_conv_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, x), (_, w), (_, offset) = typed(types, 0), typed(types, 1), typed(types, 2)
    return [(dtype, (x[0], w[0], *_deform_shapes(op, x, w, offset)))]


OPERATORS: dict[str, Function] = {"GridSample": _grid_sample, "AffineGrid": _affine_grid, "DeformConv": _deform_conv}
RULES: dict[str, Rule] = {"GridSample": _grid_sample_rule, "AffineGrid": _affine_grid_rule, "DeformConv": _deform_conv_rule}
