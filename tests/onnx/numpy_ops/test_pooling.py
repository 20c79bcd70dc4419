"""Pooling against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnx_reference, onnxruntime

SEED = st.integers(0, 2**32 - 1)


@st.composite
def pools(draw, ceil_mode=True, dilated=True):
    """Spatial extents and attributes of a pooling operator."""
    rank = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2 if dilated else 1), min_size=rank, max_size=rank))
    pads = [draw(st.integers(0, (k - 1) // 2)) for k in kernel * 2]
    extents = [draw(st.integers((k - 1) * d + 1, 9)) for k, d in zip(kernel, dilations, strict=True)]
    attributes = {"kernel_shape": kernel, "strides": draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))}
    auto_pad = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad == "NOTSET":
        attributes["pads"] = pads
        if ceil_mode:
            attributes["ceil_mode"] = draw(st.integers(0, 1))
    else:
        attributes["auto_pad"] = auto_pad
        # Strides beyond the kernel would need less than no padding, which ONNX Runtime refuses.
        attributes["strides"] = [min(s, k) for s, k in zip(attributes["strides"], kernel, strict=True)]
    if dilated and auto_pad == "NOTSET":
        attributes["dilations"] = dilations
    return extents, attributes


@settings(max_examples=120)
@given(seed=SEED, pool=pools(), indices=st.booleans(), column_major=st.integers(0, 1))
def test_max_pool(seed, pool, indices, column_major):
    extents, attributes = pool
    assume(not column_major or len(extents) < 3)  # ONNX Runtime's third axis does not follow either order
    x = np.random.default_rng(seed).integers(-9, 9, (2, 2, *extents)).astype(np.float32)  # many equal maxima
    wanted = (True, True) if indices else (True,)
    if indices:
        attributes = {**attributes, "storage_order": column_major}
    op = Operator("MaxPool", version=12, attributes=attributes, wanted=wanted)
    check(op, [x], onnxruntime(op, [x]))


@settings(max_examples=80)
@given(seed=SEED, pool=pools(), padded=st.integers(0, 1))
def test_average_pool(seed, pool, padded):
    extents, attributes = pool
    # ONNX Runtime counts what ceil_mode reaches beyond the padding where it counts the padding; the suite does not.
    assume(not (padded and attributes.get("ceil_mode")))
    x = np.random.default_rng(seed).standard_normal((2, 2, *extents)).astype(np.float32)
    op = Operator("AveragePool", version=19, attributes={**attributes, "count_include_pad": padded})
    check(op, [x], onnxruntime(op, [x]))


@settings(max_examples=40)
@given(seed=SEED, pool=pools(), p=st.integers(1, 3))
def test_lp_pool(seed, pool, p):
    extents, attributes = pool
    x = np.random.default_rng(seed).standard_normal((2, 2, *extents)).astype(np.float32)
    op = Operator("LpPool", version=18, attributes={**attributes, "p": p})
    check(op, [x], onnxruntime(op, [x]))


@pytest.mark.parametrize("op_type", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global(op_type, rank):
    x = np.random.default_rng(0).standard_normal((2, 3, *(4, 5, 2)[:rank])).astype(np.float32)
    op = Operator(op_type, version=2)
    check(op, [x], onnxruntime(op, [x]))


@pytest.mark.parametrize("output_shape", [None, [1, 2, 9, 7]])
def test_max_unpool_puts_back_what_max_pool_took(output_shape):
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 6)).astype(np.float32)
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    y, indices = evaluate(Operator("MaxPool", version=12, attributes=attributes, wanted=(True, True)), [x])
    op = Operator("MaxUnpool", version=11, attributes=attributes)
    inputs = [y, indices] + ([] if output_shape is None else [np.array(output_shape)])
    check(op, inputs, onnx_reference(op, inputs))
    (z,) = evaluate(op, inputs)
    np.testing.assert_array_equal(z[:, :, :8, :6], np.where(np.isin(x, y), x, 0))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float64])
def test_other_dtypes(dtype):
    x = np.random.default_rng(0).integers(0, 9, (1, 2, 5, 5)).astype(dtype)
    op = Operator("MaxPool", version=12, attributes={"kernel_shape": [3, 3], "pads": [1] * 4})
    (y,) = evaluate(op, [x])
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    np.testing.assert_array_equal(y, np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3)).max((-1, -2)))
    assert y.dtype == dtype


@pytest.mark.parametrize("attributes, rule", [
    ({}, "`kernel_shape` must be given"),
    ({"kernel_shape": [9, 2]}, "`kernel_shape` must fit into the padded source"),
    ({"kernel_shape": [2]}, "`kernel_shape` must have 2 elements"),
    ({"kernel_shape": [2, 2], "strides": [0, 1]}, r"`strides` must lie in \[1, 65536\]"),
    ({"kernel_shape": [2, 2], "dilations": [1, 2**40]}, r"`dilations` must lie in \[1, 65536\]"),
    ({"kernel_shape": [2, 2], "pads": [0, -1, 0, 0]}, r"`pads` must lie in \[0, 65536\]"),
    ({"kernel_shape": [2, 2], "auto_pad": "SAME"}, "`auto_pad` must be"),
])
def test_what_is_refused(attributes, rule):
    with pytest.raises(ValueError, match=f"MaxPool: {rule}"):
        evaluate(Operator("MaxPool", version=12, attributes=attributes), [np.zeros((1, 1, 4, 4), np.float32)])
