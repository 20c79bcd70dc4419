"""NonMaxSuppression against a plain loop, RoiAlign against the reference implementation, MaxRoiPool against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnx_reference, onnxruntime

SEED = st.integers(0, 2**32 - 1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes given by any two opposite corners."""
    (ay0, ax0), (ay1, ax1) = np.sort(a.reshape(2, 2), 0)
    (by0, bx0), (by1, bx1) = np.sort(b.reshape(2, 2), 0)
    shared = max(0, min(ay1, by1) - max(ay0, by0)) * max(0, min(ax1, bx1) - max(ax0, bx0))
    union = (ay1 - ay0) * (ax1 - ax0) + (by1 - by0) * (bx1 - bx0) - shared
    return shared / union if shared > 0 else 0


def plain_nms(boxes, scores, limit, threshold, least):
    """The definition, box by box."""
    found = []
    for n in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            order = sorted((i for i in range(scores.shape[2]) if scores[n, c, i] > least),
                           key=lambda i: (-scores[n, c, i], i))
            kept = []
            for i in order:
                if len(kept) < limit and all(overlap(boxes[n, i], boxes[n, k]) <= threshold for k in kept):
                    kept.append(i)
            found += [(n, c, i) for i in kept]
    return np.asarray(found, np.int64).reshape(-1, 3)


@settings(max_examples=60)
@given(seed=SEED, n=st.integers(1, 2), classes=st.integers(1, 3), boxes=st.integers(0, 200), limit=st.integers(0, 40),
       threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]), least=st.sampled_from([0.0, 0.5]), centers=st.booleans())
def test_non_max_suppression(seed, n, classes, boxes, limit, threshold, least, centers):
    rng = np.random.default_rng(seed)
    # Sixteenths are exact in float32, so that both sides see the same overlaps; equal scores are frequent.
    center = rng.integers(0, 160, (n, boxes, 2)) / 16
    size = rng.integers(2, 64, (n, boxes, 2)) / 8
    scores = (rng.integers(0, 50, (n, classes, boxes)) / 50).astype(np.float32)
    corners = np.concatenate([center - size / 2, center + size / 2], -1).astype(np.float32)
    flip = rng.random((n, boxes, 1)) < 0.5
    given_boxes = np.where(flip, corners, np.roll(corners, 2, -1))
    op = Operator("NonMaxSuppression", version=11, attributes={"center_point_box": int(centers)})
    inputs = [np.concatenate([center, size], -1).astype(np.float32) if centers else given_boxes, scores, np.array([limit]),
              np.array([threshold], np.float32), np.array([least], np.float32)]
    expected = plain_nms(corners, scores, limit, np.float32(threshold), least)
    np.testing.assert_array_equal(evaluate(op, inputs)[0], expected)


def test_suppression_across_many_blocks():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 64, (1, 700, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 30, (1, 700, 2))], -1).astype(np.float32)
    scores = rng.permutation(700).astype(np.float32).reshape(1, 1, -1)
    op = Operator("NonMaxSuppression", version=11)
    (y,) = evaluate(op, [boxes, scores, np.array([700]), np.array([0.6], np.float32)])
    np.testing.assert_array_equal(y, plain_nms(boxes, scores, 700, np.float32(0.6), -np.inf))
    assert 128 < len(y) < 700


def test_defaults_keep_nothing():
    y = evaluate(Operator("NonMaxSuppression", version=11), [np.ones((1, 3, 4), np.float32), np.ones((1, 1, 3), np.float32)])
    assert y[0].shape == (0, 3) and y[0].dtype == np.int64


@settings(max_examples=40)
@given(seed=SEED, mode=st.sampled_from(["avg", "max"]), ratio=st.integers(0, 3),
       out=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       half=st.booleans(), rois=st.integers(0, 5), version=st.sampled_from([10, 16, 22]))
def test_roi_align(seed, mode, ratio, out, half, rois, version):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, 7, 9)).astype(np.float32)
    corners = rng.uniform(-3, 22, (rois, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1) + 0.5], 1).astype(np.float32)
    attributes = {"mode": mode, "sampling_ratio": ratio, "output_height": out[0], "output_width": out[1],
                  "spatial_scale": 0.5}
    if version >= 16:
        attributes["coordinate_transformation_mode"] = "half_pixel" if half else "output_half_pixel"
    else:
        half = False
    inputs = [x, boxes, rng.integers(0, 2, rois)]
    same = Operator("RoiAlign", version=16, attributes={**attributes, "coordinate_transformation_mode":
                                                        "half_pixel" if half else "output_half_pixel"})
    check(Operator("RoiAlign", version=version, attributes=attributes), inputs, onnx_reference(same, inputs))


def test_roi_align_of_empty_regions_and_chunks(monkeypatch):
    from cnnext.onnx.numpy_ops import detection

    monkeypatch.setattr(detection, "_CHUNK_ELEMENTS", 64)
    x = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    boxes = np.array([[1, 1, 1, 1], [0, 0, 3, 3], [2, 2, 1, 1], [0, 1, 3, 2], [50, 50, 60, 60]], np.float32)
    op = Operator("RoiAlign", version=16, attributes={"output_height": 2, "output_width": 2})
    inputs = [x, boxes, np.zeros(5, np.int64)]
    check(op, inputs, onnx_reference(op, inputs))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_of_more_samples_than_elements(mode):
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
    boxes = np.array([[-20, -30, 40, 50], [0, 0, 5, 60]], np.float32)
    op = Operator("RoiAlign", version=16, attributes={"output_height": 2, "output_width": 3, "mode": mode})
    inputs = [x, boxes, np.zeros(2, np.int64)]
    check(op, inputs, onnx_reference(op, inputs))


def test_regions_of_absurd_size_are_refused():
    op = Operator("RoiAlign", version=16)
    with pytest.raises(ValueError, match="RoiAlign: `rois` must need at most 16384 samples"):
        evaluate(op, [np.zeros((1, 1, 4, 4), np.float32), np.array([[0, 0, 1e30, 1]], np.float32), np.zeros(1, np.int64)])


def test_max_roi_pool():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 3, 9, 11)).astype(np.float32)
    corners = np.sort(rng.uniform(0, 16, (6, 2, 2)), 1).reshape(6, 4)
    rois = np.concatenate([rng.integers(0, 2, (6, 1)), corners], 1).astype(np.float32)
    op = Operator("MaxRoiPool", version=1, attributes={"pooled_shape": [3, 2], "spatial_scale": 0.5})
    check(op, [x, rois], onnxruntime(op, [x, rois]))
