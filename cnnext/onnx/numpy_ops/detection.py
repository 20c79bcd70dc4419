"""What detectors end with: NonMaxSuppression, RoiAlign, MaxRoiPool."""

from __future__ import annotations

import numpy as np

from cnnext.onnx.numpy_ops.common import (
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    integers,
    refuse,
    typed,
    wide_dtype,
)
from cnnext.onnx.numpy_ops.reduce import lowest
from cnnext.onnx.operator import Operator

_BLOCK = 128  # boxes whose overlaps are computed at once
_LARGEST_GRID = 1 << 14  # samples along one axis of one bin
_CHUNK_ELEMENTS = 1 << 22
_DENSE = 4  # times as many taps as elements are where gathering them is no longer quicker

Grid = tuple[int, int]


# Non-maximum suppression --------------------------------------------------------------------------------------------

def _corners(op: Operator, boxes: Array) -> Array:
    """Boxes (..., 4) as (y0, x0, y1, x1) in ascending order, whichever corners or centres the operator gets."""
    a, b = boxes[..., :2], boxes[..., 2:]
    if op.attributes.get("center_point_box", 0):
        return np.concatenate([a - b / 2, a + b / 2], -1)  # the order of x and y does not matter to an overlap
    return np.concatenate([np.minimum(a, b), np.maximum(a, b)], -1)


def _overlap(a: Array, b: Array, threshold: float) -> Array:
    """Whether boxes a (M, 4) and b (N, 4) overlap by more than `threshold`: (M, N)."""
    extent = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(extent[..., 0], 0) * np.maximum(extent[..., 1], 0)
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    union = area_a[:, None] + area_b - shared
    return (shared > 0) & (area_a[:, None] > 0) & (area_b > 0) & (union > 0) & (shared / union > threshold)


def suppress(boxes: Array, limit: int, threshold: float) -> Array:
    """Indices of the boxes (corners, best first) that are kept: none overlaps one kept before it."""
    kept: list[int] = []
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start:start + _BLOCK]
        alive = np.flatnonzero(~_overlap(block, boxes[kept], threshold).any(1)) if kept else np.arange(len(block))
        hides = _overlap(block[alive], block[alive], threshold)
        hidden = np.zeros(len(alive), bool)
        for i in range(len(alive)):
            if not hidden[i]:
                kept.append(start + int(alive[i]))
                if len(kept) == limit:
                    return np.asarray(kept, np.int64)
                hidden |= hides[i]
    return np.asarray(kept, np.int64)


def _scalar(x: Array | None, default: float) -> float:
    return default if x is None or x.size == 0 else x.reshape(-1)[0]


def _non_max_suppression(op: Operator, boxes: Array, scores: Array, most: Array | None = None,
                         iou_threshold: Array | None = None, score_threshold: Array | None = None) -> Array:
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape != (scores.shape[0], scores.shape[2], 4):
        raise refuse(op, "boxes", "have the shape (N, boxes, 4), and scores (N, classes, boxes)", boxes.shape,
                     f"scores shape {scores.shape}")
    limit, threshold = int(_scalar(most, 0)), _scalar(iou_threshold, 0.0)
    least = _scalar(score_threshold, -np.inf)
    found = [np.empty((0, 3), np.int64)]
    for n in range(scores.shape[0] if limit > 0 else 0):
        corners = _corners(op, boxes[n])
        for c in range(scores.shape[1]):
            row = scores[n, c]
            chosen = np.flatnonzero(row > least) if least > -np.inf else np.arange(row.size)
            if not chosen.size:
                continue
            chosen = chosen[np.argsort(-row[chosen], kind="stable")]
            kept = chosen[suppress(corners[chosen], limit, threshold)]
            found.append(np.stack([np.full_like(kept, n), np.full_like(kept, c), kept], 1))
    return np.concatenate(found)


def _unknown(op: Operator, types: Types, contents: Contents) -> None:
    return None


# Regions of interest ------------------------------------------------------------------------------------------------

def _linear_taps(at: Array, size: int) -> tuple[Array, Array]:
    """Two elements and weights for each coordinate: up to one element outside counts as the border, beyond it as zero."""
    inside = (at >= -1) & (at <= size)
    at = np.clip(np.where(inside, at, 0), 0, size - 1)
    low = np.minimum(np.floor(at), size - 1)
    high = np.minimum(low + 1, size - 1)
    part = at - low
    weights = np.stack([1 - part, part], -1) * inside[..., None]
    return np.stack([low, high], -1).astype(np.intp), weights.astype(at.dtype)


def _roi_taps(x: Array, starts: Array, bins: Array, grid: Grid, out: Grid) -> list[tuple[Array, Array]]:
    """For both axes, elements and weights of all samples: each (R, bins, samples, 2)."""
    taps = []
    for axis, (count, samples) in enumerate(zip(out, grid, strict=True)):
        inner = (np.arange(samples, dtype=starts.dtype) + starts.dtype.type(0.5)) / starts.dtype.type(samples)
        steps = np.arange(count, dtype=starts.dtype)[:, None] + inner
        taps.append(_linear_taps(starts[:, axis, None, None] + steps * bins[:, axis, None, None], x.shape[axis]))
    return taps


def _roi_average(x: Array, taps: list[tuple[Array, Array]]) -> Array:
    """Averages over the samples, x (H, W, C) -> (R, OH, OW, C): linear in x along both axes, one after the other."""
    (at_y, wy), (at_x, wx) = taps
    rois, oh, ow = len(at_y), at_y.shape[1], at_x.shape[1]
    if at_y[0].size * at_x[0].size > _DENSE * x.shape[0] * x.shape[1]:  # many taps: matrices over all elements instead
        matrices = []
        for at, weights, size in ((at_y, wy, x.shape[0]), (at_x, wx, x.shape[1])):
            matrix = np.zeros((rois, at.shape[1], size), x.dtype)
            np.add.at(matrix, (*np.ogrid[:rois, :at.shape[1]], at.reshape(*at.shape[:2], -1).transpose(2, 0, 1)),
                      weights.reshape(*at.shape[:2], -1).transpose(2, 0, 1))
            matrices.append(matrix)
        rows = (matrices[0] @ x.reshape(x.shape[0], -1)).reshape(rois, oh, *x.shape[1:])
        y = matrices[1][:, None] @ rows
    else:
        taken = x[at_y.reshape(rois, -1, 1), at_x.reshape(rois, 1, -1)]  # (R, OH * taps, OW * taps, C)
        rows = wy.reshape(rois, oh, 1, -1) @ taken.reshape(rois, oh, wy[0, 0].size, -1)
        y = (wx.reshape(rois, 1, ow, 1, -1) @ rows.reshape(rois, oh, ow, wx[0, 0].size, -1))[..., 0, :]
    return y / (at_y.shape[2] * at_x.shape[2])


def _roi_maximum(x: Array, taps: list[tuple[Array, Array]]) -> Array:
    """Maxima over the samples, x (H, W, C) -> (R, OH, OW, C).

    Of a sample it takes the greatest weighted neighbour, which is how the reference has it, not the interpolated value.
    """
    (at_y, wy), (at_x, wx) = taps
    y = np.full((len(at_y), at_y.shape[1], at_x.shape[1], x.shape[2]), -np.inf, x.dtype)
    for i, sample, k in np.ndindex(at_y.shape[1:]):
        rows = x[at_y[:, i, sample, k, None, None, None], at_x] * (wy[:, i, sample, k, None, None, None] * wx)[..., None]
        np.maximum(y[:, i], rows.max((2, 3)), out=y[:, i])
    return y


def _roi_align(op: Operator, x: Array, rois: Array, batch_indices: Array) -> Array:
    shape = _roi_align_rule(op, [(v.dtype, v.shape) for v in (x, rois, batch_indices)], ())[0][1]
    out, mode = (shape[2], shape[3]), op.attributes.get("mode", "avg").lower()
    if mode not in ("avg", "max"):
        raise refuse(op, "mode", "be 'avg' or 'max'", mode)
    wide = wide_dtype(x.dtype)
    half = op.version >= 16 and op.attributes.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    corners = rois.astype(wide) * wide.type(op.attributes.get("spatial_scale", 1.0)) - wide.type(0.5 if half else 0)
    starts, extents = corners[:, 1::-1], corners[:, :1:-1] - corners[:, 1::-1]  # y before x
    if not half:
        extents = np.maximum(extents, 1)  # what is malformed counts as one element
    bins = extents / np.asarray(out, wide)
    ratio = op.attributes.get("sampling_ratio", 0)
    grids = np.full(bins.shape, float(ratio)) if ratio > 0 else np.maximum(np.ceil(bins), 0)
    if not (grids <= _LARGEST_GRID).all():
        raise refuse(op, "rois", f"need at most {_LARGEST_GRID} samples along a bin", rois)
    if ((batch_indices < 0) | (batch_indices >= x.shape[0])).any():
        raise refuse(op, "batch_indices", f"lie in [0, {x.shape[0] - 1}]", batch_indices)
    y, images = np.zeros(shape, wide), np.ascontiguousarray(x.transpose(0, 2, 3, 1), wide)
    keys = np.stack([batch_indices.astype(np.int64), *grids.astype(np.int64).T], 1)
    pool = _roi_average if mode == "avg" else _roi_maximum
    for key in np.unique(keys, axis=0):
        n, gy, gx = (int(k) for k in key)
        if gy == 0 or gx == 0:
            continue
        which = np.flatnonzero((keys == key).all(1))
        each = x.shape[1] * min(4 * out[0] * out[1] * gy * gx, max(_DENSE * x.shape[2], out[0]) * x.shape[3])
        step = max(1, _CHUNK_ELEMENTS // max(1, each))
        for start in range(0, which.size, step):
            part = which[start:start + step]
            pooled = pool(images[n], _roi_taps(images[n], starts[part], bins[part], (gy, gx), out))
            y[part] = pooled.transpose(0, 3, 1, 2)
    return y.astype(x.dtype, copy=False)


def _roi_align_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, x), (_, rois), (_, indices) = typed(types, 0), typed(types, 1), typed(types, 2)
    if len(x) != 4 or rois != (*indices, 4) or len(indices) != 1:
        raise refuse(op, "rois", "have the shape (R, 4), batch_indices (R,), and X (N, C, H, W)", rois, f"source shape {x}")
    out = op.attributes.get("output_height", 1), op.attributes.get("output_width", 1)
    if min(out) < 1:
        raise refuse(op, "output_height", "be positive, as output_width", out)
    return [(dtype, (rois[0], x[1], *out))]


def _max_roi_pool(op: Operator, x: Array, rois: Array) -> Array:
    shape = _max_roi_pool_rule(op, [(v.dtype, v.shape) for v in (x, rois)], ())[0][1]
    scale, y = op.attributes.get("spatial_scale", 1.0), np.zeros(shape, x.dtype)
    for r, (n, x0, y0, x1, y1) in enumerate(rois.tolist()):
        if not 0 <= n < x.shape[0]:
            raise refuse(op, "rois", f"name images in [0, {x.shape[0] - 1}]", n)
        part = x[int(n)]
        for axis, low, high in ((1, y0, y1), (2, x0, x1)):  # a maximum over a box is one over rows, then over columns
            part = _max_bins(part, axis, _round(low * scale), _round(high * scale), shape[axis + 1])
        y[r] = np.where(part == lowest(x.dtype), 0, part)
    return y


def _max_bins(x: Array, axis: int, first: int, last: int, count: int) -> Array:
    """Maxima over `count` bins from element `first` to `last` of one axis."""
    step = max(last - first + 1, 1) / count
    bounds = np.arange(count)
    starts = np.clip(np.floor(bounds * step).astype(np.int64) + first, 0, x.shape[axis])
    ends = np.clip(np.ceil((bounds + 1) * step).astype(np.int64) + first, 0, x.shape[axis])
    y = np.full(x.shape[:axis] + (count,) + x.shape[axis + 1:], lowest(x.dtype), x.dtype)
    for i in np.flatnonzero(starts < ends):
        np.moveaxis(y, axis, 0)[i] = np.moveaxis(x, axis, 0)[starts[i]:ends[i]].max(0)
    return y


def _round(v: float) -> int:
    return int(np.floor(v + 0.5)) if v >= 0 else int(np.ceil(v - 0.5))


def _max_roi_pool_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, x), (_, rois) = typed(types, 0), typed(types, 1)
    out = integers(op, "pooled_shape", (), 2)
    if len(x) != 4 or len(rois) != 2 or rois[1] != 5 or len(out) != 2 or min(out) < 1:
        raise refuse(op, "rois", "have the shape (R, 5), X (N, C, H, W), and pooled_shape two extents", rois, f"{x}, {out}")
    return [(dtype, (rois[0], x[1], *out))]


OPERATORS: dict[str, Function] = {
    "NonMaxSuppression": _non_max_suppression, "RoiAlign": _roi_align, "MaxRoiPool": _max_roi_pool,
}
RULES: dict[str, Rule] = {"NonMaxSuppression": _unknown, "RoiAlign": _roi_align_rule, "MaxRoiPool": _max_roi_pool_rule}
