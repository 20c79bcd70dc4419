"""GridSample, AffineGrid and DeformConv against the reference implementation and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnx_reference, onnxruntime

SEED = st.integers(0, 2**32 - 1)
PADDING = st.sampled_from(["zeros", "border", "reflection"])


@settings(max_examples=60)
@given(seed=SEED, rank=st.sampled_from([2, 3]), mode=st.sampled_from(["linear", "nearest", "cubic"]), padding=PADDING,
       align=st.integers(0, 1))
def test_grid_sample_against_reference(seed, rank, mode, padding, align):
    padding = "zeros" if mode == "cubic" else padding  # elsewhere the reference clamps the place, PyTorch the taps
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 2, *rng.integers(2, 5, rank))).astype(np.float32)
    grid = rng.uniform(-1.8, 1.8, (2, *rng.integers(1, 4, rank), rank)).astype(np.float32)
    op = Operator("GridSample", version=20, attributes={"mode": mode, "padding_mode": padding, "align_corners": align})
    check(op, [x, grid], onnx_reference(op, [x, grid]), rtol=1e-3, atol=1e-4)


@settings(max_examples=40)
@given(seed=SEED, mode=st.sampled_from(["bilinear", "nearest", "bicubic"]), padding=PADDING, align=st.integers(0, 1))
def test_grid_sample_against_onnxruntime(seed, mode, padding, align):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 3, 6, 5)).astype(np.float32)
    grid = rng.uniform(-1.3, 1.3, (1, 4, 7, 2)).astype(np.float32)
    op = Operator("GridSample", version=16, attributes={"mode": mode, "padding_mode": padding, "align_corners": align})
    check(op, [x, grid], onnxruntime(op, [x, grid]), rtol=1e-3, atol=1e-4)


def test_grid_sample_far_outside_and_at_nan():
    x = np.ones((1, 1, 3, 3), np.float32)
    grid = np.array([1e30, -1e30, np.inf, -np.inf, np.nan, 0], np.float32)
    grid = np.stack([grid, np.zeros_like(grid)], -1).reshape(1, 1, 6, 2)
    (zeros,) = evaluate(Operator("GridSample", version=20), [x, grid])
    assert zeros.ravel().tolist() == [0, 0, 0, 0, 0, 1]
    (border,) = evaluate(Operator("GridSample", version=20, attributes={"padding_mode": "border"}), [x, grid])
    assert border.ravel()[:4].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 2, 4)])
@pytest.mark.parametrize("align", [0, 1])
def test_affine_grid(size, align):
    rank = len(size) - 2
    theta = np.random.default_rng(0).standard_normal((2, rank, rank + 1)).astype(np.float32)
    op = Operator("AffineGrid", version=20, attributes={"align_corners": align})
    inputs = [theta, np.array(size)]
    check(op, inputs, onnx_reference(op, inputs))


@settings(max_examples=15)
@given(seed=SEED, group=st.sampled_from([1, 2]), offset_group=st.sampled_from([1, 2, 4]), stride=st.integers(1, 2),
       dilation=st.integers(1, 2), pad=st.integers(0, 1), masked=st.booleans())
def test_deform_conv(seed, group, offset_group, stride, dilation, pad, masked):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((1, 4, 5, 6)), rng.standard_normal((2, 4 // group, 2, 2))
    oh, ow = ((n + 2 * pad - dilation - 1) // stride + 1 for n in (5, 6))
    offset = rng.uniform(-2, 2, (1, offset_group * 8, oh, ow))
    mask = rng.uniform(0, 1, (1, offset_group * 4, oh, ow)) if masked else None
    inputs = [v if v is None else v.astype(np.float32) for v in (x, w, offset, rng.standard_normal(2), mask)]
    op = Operator("DeformConv", version=22, attributes={
        "group": group, "offset_group": offset_group, "strides": [stride] * 2, "dilations": [dilation] * 2,
        "pads": [pad] * 4,
        "kernel_shape": [2, 2]})
    check(op, inputs, onnx_reference(op, inputs), rtol=1e-3, atol=1e-4)
