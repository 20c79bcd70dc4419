"""What detectors end with: NonMaxSuppression, RoiAlign, MaxRoiPool."""

from __future__ import annotations

from math import ceil

import numpy as np

from cnnext.onnx.numpy_ops.common import Array, Contents, Function, Rule, TensorType, Types, integers, refuse, typed
from cnnext.onnx.numpy_ops.convolution import wide_dtype
from cnnext.onnx.operator import Operator

_BLOCK = 128  # boxes whose overlaps are computed at once
_LARGEST_GRID = 1 << 12  # samples along one axis of one bin
_CHUNK_ELEMENTS = 1 << 22


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


def _roi_chunk(x: Array, starts: Array, bins: Array, grid: tuple[int, int], out: tuple[int, int], mode: str) -> Array:
    """Pool RoIs of one image that share a sampling grid: x (H, W, C), starts and bins (R, 2) -> (R, OH, OW, C)."""
    places, weights = [], []
    for axis, (count, samples) in enumerate(zip(out, grid, strict=True)):
        inner = (np.arange(samples, dtype=starts.dtype) + starts.dtype.type(0.5)) / starts.dtype.type(samples)
        steps = np.arange(count, dtype=starts.dtype)[:, None] + inner
        at, weight = _linear_taps(starts[:, axis, None, None] + steps * bins[:, axis, None, None], x.shape[axis])
        places.append(at.reshape(len(starts), -1))
        weights.append(weight.reshape(len(starts), count, 2 * samples))
    wy, wx = weights
    taken = x[places[0][:, :, None], places[1][:, None, :]]  # (R, OH * taps, OW * taps, C)
    taken = taken.reshape(*wy.shape, -1)
    if mode == "avg":
        rows = wy[:, :, None] @ taken  # (R, OH, 1, OW * taps * C)
        rows = rows.reshape(*wy.shape[:2], *wx.shape[1:], -1)
        return (wx[:, None, :, None] @ rows)[..., 0, :] / (grid[0] * grid[1])
    # The greatest weighted neighbour of all samples, which is how the reference has it, not the greatest interpolation.
    taken = taken.reshape(*wy.shape, *wx.shape[1:], -1)
    return (taken * (wy[:, :, :, None, None] * wx[:, None, None])[..., None]).max((2, 4))


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
    for key in np.unique(keys, axis=0):
        n, gy, gx = (int(k) for k in key)
        if gy == 0 or gx == 0:
            continue
        which = np.flatnonzero((keys == key).all(1))
        step = max(1, _CHUNK_ELEMENTS // max(1, 4 * x.shape[1] * out[0] * out[1] * gy * gx))
        for start in range(0, which.size, step):
            part = which[start:start + step]
            pooled = _roi_chunk(images[n], starts[part], bins[part], (gy, gx), out, mode)
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
        edges = []
        for low, high, out, size in ((y0, y1, shape[2], x.shape[2]), (x0, x1, shape[3], x.shape[3])):
            first, last = _round(low * scale), _round(high * scale)
            step = max(last - first + 1, 1) / out
            bounds = [(int(i * step // 1) + first, ceil((i + 1) * step) + first) for i in range(out)]
            edges.append([slice(*np.clip(bound, 0, size)) for bound in bounds])
        for i, rows in enumerate(edges[0]):
            for j, columns in enumerate(edges[1]):
                part = x[int(n), :, rows, columns]
                if part.size:
                    y[r, :, i, j] = part.max((1, 2))
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
