"""Quantized operators against ONNX Runtime, and against exact integer arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.uint8, np.int8])


def draw(rng, dtype, *shape):
    """Random integers of the whole range."""
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def scale(rng, *shape):
    """Random scales."""
    return rng.uniform(0.01, 0.1, shape).astype(np.float32)


@settings(max_examples=60)
@given(seed=SEED, dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32]),
       axis=st.sampled_from([None, 0, 1, -1]),
       zero=st.booleans())
def test_dequantize(seed, dtype, axis, zero):
    rng = np.random.default_rng(seed)
    x = draw(rng, dtype, 3, 4, 5)
    n = () if axis is None else (x.shape[axis],)
    zero_point = None if not zero else np.zeros(n, dtype) if dtype == np.int32 else draw(rng, dtype, *n)
    op = Operator("DequantizeLinear", version=21, attributes={} if axis is None else {"axis": axis})
    factor = scale(rng, *n)
    check(op, [x, factor, zero_point], onnxruntime(op, [x, factor, zero_point]))


@settings(max_examples=60)
@given(seed=SEED, dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]), axis=st.sampled_from([None, 0, 1, -1]))
def test_quantize(seed, dtype, axis):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((3, 4, 5)) * 5).astype(np.float32)
    n = () if axis is None else (x.shape[axis],)
    inputs = [x, scale(rng, *n), draw(rng, dtype, *n)]
    op = Operator("QuantizeLinear", version=21, attributes={} if axis is None else {"axis": axis})
    check(op, inputs, onnxruntime(op, inputs), atol=1)  # a division may round the other way next to a half


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn,
                                   ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("block", [1, 2, 3, 2**40])
def test_blocks_there_and_back(dtype, block):
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (2, 5, 3)).astype(np.float32)
    factor = rng.uniform(0.5, 1, (2, -(-5 // block), 3)).astype(np.float32)
    attributes = {"axis": 1, "block_size": block}
    zero_point = np.zeros(factor.shape, dtype)
    (q,) = evaluate(Operator("QuantizeLinear", version=23, attributes=attributes), [x, factor, zero_point])
    assert q.dtype == dtype
    (y,) = evaluate(Operator("DequantizeLinear", version=23, attributes=attributes), [q, factor, zero_point])
    whole = np.repeat(factor, min(block, 5), 1)[:, :5]
    low = 0 if np.dtype(dtype).name.startswith("u") else -np.inf
    tolerance = np.abs(x) / 8 if "float8" in np.dtype(dtype).name else whole / 2
    assert (np.abs(y - np.maximum(x, low)) <= tolerance + 1e-6).all()


def test_quantizing_saturates_and_rounds_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9], np.float32)
    (y,) = evaluate(Operator("QuantizeLinear", version=13), [x, np.float32(1), np.array(0, np.int8)])
    assert y.tolist() == [0, 2, 2, 0, 127, -128]


@settings(max_examples=30)
@given(seed=SEED, a_dtype=DTYPES, b_dtype=DTYPES, per_column=st.booleans())
def test_matmul_integer(seed, a_dtype, b_dtype, per_column):
    rng = np.random.default_rng(seed)
    a, b = draw(rng, a_dtype, 2, 3, 7), draw(rng, b_dtype, 7, 5)
    a_zero, b_zero = draw(rng, a_dtype), draw(rng, b_dtype, *((5,) if per_column else ()))
    op = Operator("MatMulInteger", version=10)
    expected = (a.astype(np.int32) - a_zero.astype(np.int32)) @ (b.astype(np.int32) - b_zero.astype(np.int32))
    check(op, [a, b, a_zero, b_zero], [expected], rtol=0, atol=0)


@settings(max_examples=30)
@given(seed=SEED, b_dtype=DTYPES, per_column=st.booleans())
def test_qlinear_matmul(seed, b_dtype, per_column):
    rng = np.random.default_rng(seed)
    n = (5,) if per_column else ()
    inputs = [draw(rng, np.uint8, 3, 7), scale(rng), draw(rng, np.uint8), draw(rng, b_dtype, 7, 5), scale(rng, *n),
              draw(rng, b_dtype, *n), scale(rng) * 10, draw(rng, np.uint8)]
    op = Operator("QLinearMatMul", version=10)
    check(op, inputs, onnxruntime(op, inputs), atol=1)


@settings(max_examples=30)
@given(seed=SEED, w_dtype=DTYPES, per_filter=st.booleans(), biased=st.booleans(), group=st.sampled_from([1, 2]),
       pad=st.integers(0, 1))
def test_qlinear_conv(seed, w_dtype, per_filter, biased, group, pad):
    rng = np.random.default_rng(seed)
    n = (6,) if per_filter else ()
    w_zero = np.full(n, draw(rng, w_dtype) if w_dtype == np.uint8 else 0, w_dtype)
    inputs = [draw(rng, np.uint8, 1, 4, 6, 5), scale(rng), draw(rng, np.uint8), draw(rng, w_dtype, 6, 4 // group, 3, 2),
              scale(rng, *n), w_zero, scale(rng) * 20, draw(rng, np.uint8),
              rng.integers(-1000, 1000, 6).astype(np.int32) if biased else None]
    op = Operator("QLinearConv", version=10, attributes={"group": group, "pads": [pad] * 4})
    check(op, inputs, onnxruntime(op, inputs), atol=1)


@settings(max_examples=20)
@given(seed=SEED, pad=st.integers(0, 1))
def test_conv_integer_is_exact(seed, pad):
    rng = np.random.default_rng(seed)
    inputs = [draw(rng, np.uint8, 1, 3, 5, 6), draw(rng, np.uint8, 4, 3, 2, 3), draw(rng, np.uint8), draw(rng, np.uint8)]
    op = Operator("ConvInteger", version=10, attributes={"pads": [pad] * 4})
    check(op, inputs, onnxruntime(op, inputs), rtol=0, atol=0)


@settings(max_examples=40)
@given(seed=SEED, op_type=st.sampled_from(["QLinearAdd", "QLinearMul"]), dtype=DTYPES)
def test_quantized_binary(seed, op_type, dtype):
    rng = np.random.default_rng(seed)
    inputs = [draw(rng, dtype, 2, 3, 4), scale(rng), draw(rng, dtype), draw(rng, dtype, 3, 1), scale(rng), draw(rng, dtype),
              scale(rng), draw(rng, dtype)]
    op = Operator(op_type, "com.microsoft", 1)
    check(op, inputs, onnxruntime(op, inputs), atol=1)


@settings(max_examples=40)
@given(seed=SEED, dtype=DTYPES, last=st.integers(0, 1), op_type=st.sampled_from(
    ["QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QLinearLeakyRelu"]))
def test_quantized_unary(seed, dtype, last, op_type):
    rng = np.random.default_rng(seed)
    attributes = {"channels_last": last} if "Pool" in op_type else {}
    if op_type == "QLinearAveragePool":
        attributes["kernel_shape"] = [2, 2]
    inputs = [draw(rng, dtype, 2, 3, 4, 5), scale(rng), draw(rng, dtype), scale(rng), draw(rng, dtype)]
    op = Operator(op_type, "com.microsoft", 1, attributes)
    check(op, inputs, onnxruntime(op, inputs), atol=1)


@settings(max_examples=20)
@given(seed=SEED, quantized=st.booleans(), transposed=st.integers(0, 1))
def test_quantized_gemm(seed, quantized, transposed):
    rng = np.random.default_rng(seed)
    inputs = [draw(rng, np.uint8, 3, 7), scale(rng), draw(rng, np.uint8),
              draw(rng, np.int8, *((5, 7) if transposed else (7, 5))),
              scale(rng), np.zeros((), np.int8), rng.integers(-1000, 1000, 5).astype(np.int32)]
    inputs += [scale(rng) * 10, draw(rng, np.uint8)] if quantized else []
    op = Operator("QGemm", "com.microsoft", 1, {"transB": transposed, "alpha": 1.0})
    check(op, inputs, onnxruntime(op, inputs), atol=1 if quantized else 1e-3)


def test_quantized_concat():
    rng = np.random.default_rng(0)
    inputs = [scale(rng), draw(rng, np.uint8)]
    for n in (2, 3):
        inputs += [draw(rng, np.uint8, 2, n, 4), scale(rng), draw(rng, np.uint8)]
    op = Operator("QLinearConcat", "com.microsoft", 1, {"axis": 1})
    check(op, inputs, onnxruntime(op, inputs), atol=1)


@pytest.mark.parametrize("factor, attributes, rule", [
    ((3,), {}, "`scale` must have one element or 4"),
    ((2, 4), {"block_size": 3}, "`block_size` must fit the scale"),
    ((2, 4), {"block_size": -1}, "`block_size` must fit the scale"),
    ((4,), {"axis": 5}, "`axis` must lie in"),
])
def test_what_is_refused(factor, attributes, rule):
    with pytest.raises(ValueError, match=f"DequantizeLinear: {rule}"):
        evaluate(Operator("DequantizeLinear", version=21, attributes=attributes),
                 [np.zeros((2, 4), np.uint8), np.ones(factor, np.float32)])
