"""Convolution, transposed convolution and col2im against ONNX Runtime and the reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnx_reference, onnxruntime

SEED = st.integers(0, 2**32 - 1)


@st.composite
def convolutions(draw):
    """Rank, kernel, group and the attributes that every convolution has."""
    rank = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel = each(1, 3)
    attributes = {"kernel_shape": kernel, "strides": each(1, 3), "dilations": each(1, 2),
                  "group": draw(st.sampled_from([1, 2, 4]))}
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto_pad == "NOTSET":
        attributes["pads"] = each(0, 2) + each(0, 2)
    else:
        attributes["auto_pad"] = auto_pad
        attributes["dilations"] = [1] * rank
        # Strides beyond the kernel would need less than no padding, of which ONNX Runtime makes its own.
        attributes["strides"] = [min(s, k) for s, k in zip(attributes["strides"], kernel, strict=True)]
    return rank, kernel, attributes


@settings(max_examples=100)
@given(seed=SEED, convolution=convolutions(), per_group=st.integers(1, 3), biased=st.booleans())
def test_conv(seed, convolution, per_group, biased):
    rank, kernel, attributes = convolution
    rng, group = np.random.default_rng(seed), attributes["group"]
    x = rng.standard_normal((2, per_group * group, *rng.integers(5, 8, rank))).astype(np.float32)
    w = rng.standard_normal((2 * group, per_group, *kernel)).astype(np.float32)
    inputs = [x, w, rng.standard_normal(2 * group).astype(np.float32) if biased else None]
    op = Operator("Conv", version=11, attributes=attributes)
    check(op, inputs, onnxruntime(op, inputs), rtol=1e-3, atol=1e-4)


@settings(max_examples=100)
@given(seed=SEED, convolution=convolutions(), biased=st.booleans(), extra=st.integers(0, 1), explicit=st.booleans())
def test_conv_transpose(seed, convolution, biased, extra, explicit):
    rank, kernel, attributes = convolution
    rng, group = np.random.default_rng(seed), attributes["group"]
    extents = rng.integers(5, 8, rank)
    if "auto_pad" not in attributes:
        attributes = {**attributes, "output_padding": [min(extra, s - 1) for s in attributes["strides"]]}
    if explicit and attributes.get("auto_pad", "").startswith("SAME"):
        attributes["output_shape"] = [int(n * s) for n, s in zip(extents, attributes["strides"], strict=True)]
    x = rng.standard_normal((2, 2 * group, *extents)).astype(np.float32)
    w = rng.standard_normal((2 * group, 3, *kernel)).astype(np.float32)
    inputs = [x, w, rng.standard_normal(3 * group).astype(np.float32) if biased else None]
    op = Operator("ConvTranspose", version=11, attributes=attributes)
    check(op, inputs, onnxruntime(op, inputs), rtol=1e-3, atol=1e-4)


@settings(max_examples=30)
@given(seed=SEED, rank=st.integers(1, 2), dilation=st.integers(1, 2), stride=st.integers(1, 2), pad=st.integers(0, 1))
def test_col2im(seed, rank, dilation, stride, pad):
    rng = np.random.default_rng(seed)
    image, block = rng.integers(4, 7, rank), rng.integers(1, 3, rank)
    blocks = (image + 2 * pad - dilation * (block - 1) - 1) // stride + 1
    x = rng.standard_normal((2, 3 * block.prod(), blocks.prod())).astype(np.float32)
    op = Operator("Col2Im", version=18, attributes={"dilations": [dilation] * rank, "strides": [stride] * rank,
                                                    "pads": [pad] * 2 * rank})
    inputs = [x, image.astype(np.int64), block.astype(np.int64)]
    check(op, inputs, onnx_reference(op, inputs))


def test_half_precision_accumulates_in_single():
    x, w = np.full((1, 4096, 1, 1), 0.1, np.float16), np.full((1, 4096, 1, 1), 0.1, np.float16)
    (y,) = evaluate(Operator("Conv", version=11), [x, w])
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.item(), 40.93, rtol=1e-3)


@pytest.mark.parametrize("x, w, attributes, rule", [
    ((1, 3, 5, 5), (2, 3, 3), {}, "`W` must have as many axes as X"),
    ((1, 3, 5, 5), (2, 2, 3, 3), {}, "`group` must divide the channels as the weights say"),
    ((1, 3, 5, 5), (2, 3, 3, 3), {"group": 0}, "`group` must divide"),
    ((1, 3, 5, 5), (2, 3, 3, 3), {"kernel_shape": [3, 2]}, "`kernel_shape` must be that of the weights"),
    ((1, 3, 2, 2), (2, 3, 3, 3), {}, "`kernel_shape` must fit into the padded source"),
    ((1, 3, 5, 5), (2, 3, 3, 3), {"pads": [1, 1]}, "`pads` must have 4 elements"),
])
def test_what_is_refused(x, w, attributes, rule):
    with pytest.raises(ValueError, match=f"Conv: {rule}"):
        evaluate(Operator("Conv", version=11, attributes=attributes), [np.zeros(x, np.float32), np.zeros(w, np.float32)])
