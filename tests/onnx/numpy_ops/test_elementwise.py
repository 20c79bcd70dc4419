"""Elementwise operators: broadcasting of all versions, integer arithmetic, activations, casts."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("op_type, function", [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply),
                                               ("Div", np.divide), ("Pow", np.power)])
@pytest.mark.parametrize("shape, axis", [((5,), None), ((4, 5), None), ((3, 4), 1), ((2,), 0), ((4,), -2), ((), None)])
def test_broadcasting_below_opset_7(op_type, function, shape, axis):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 2, (2, 3, 4, 5)).astype(np.float32), rng.uniform(0.5, 2, shape).astype(np.float32)
    attributes = {"broadcast": 1, **({} if axis is None else {"axis": axis})}
    begin = 4 - len(shape) if axis is None else axis % 4
    laid_out = b.reshape(shape + (1,) * (4 - begin - len(shape)))
    check(Operator(op_type, version=6, attributes=attributes), [a, b], [function(a, laid_out)])


@pytest.mark.parametrize("op_type", ["Greater", "Less", "Equal", "And", "Or", "Xor"])
def test_comparison_below_opset_7(op_type):
    rng = np.random.default_rng(0)
    dtype = np.float32 if op_type in ("Greater", "Less") else np.bool_ if op_type != "Equal" else np.int64
    a, b = rng.integers(0, 2, (3, 4)).astype(dtype), rng.integers(0, 2, 3).astype(dtype)
    functions = {"Greater": np.greater, "Less": np.less, "Equal": np.equal, "And": np.logical_and, "Or": np.logical_or,
                 "Xor": np.logical_xor}
    op = Operator(op_type, version=1, attributes={"broadcast": 1, "axis": 0})
    check(op, [a, b], [functions[op_type](a, b[:, None])])


def test_prelu_below_opset_7_has_a_slope_for_each_channel():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    slope = np.array([0.1, 0.2, 0.3], np.float32)
    check(Operator("PRelu", version=6), [x, slope], [np.where(x < 0, slope[:, None, None] * x, x)])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_integer_division_truncates(dtype):
    a, b = np.meshgrid(np.arange(-9, 10), [i for i in range(-4, 5) if i])
    expected = [[int(x / y) for x, y in zip(r, s)] for r, s in zip(a, b)]
    check(Operator("Div", version=14), [a.astype(dtype), b.astype(dtype)], [np.array(expected, dtype)], atol=0)


def test_division_by_zero_does_not_raise():
    for dtype in (np.int32, np.uint8, np.float32):
        (y,) = evaluate(Operator("Div", version=14), [np.ones(2, dtype), np.zeros(2, dtype)])
        assert y.dtype == dtype and y.shape == (2,)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("fmod", [0, 1])
def test_mod(dtype, fmod):
    a, b = np.meshgrid(np.arange(-9, 10), [i for i in range(-4, 5) if i])
    expected = np.fmod(a, b) if fmod else a - np.floor(a / b) * b
    check(Operator("Mod", version=13, attributes={"fmod": fmod}), [a.astype(dtype), b.astype(dtype)],
          [expected.astype(dtype)])


def test_integer_powers():
    a, b = np.array([2, 3, -2, 1]), np.array([3, -1, 2, -5])
    check(Operator("Pow", version=15), [a, b], [np.array([8, 0, 4, 1])])
    check(Operator("Pow", version=15), [a, np.array([0.5, 2, 3, 1], np.float32)], [np.array([1, 9, -8, 1])])


@settings(max_examples=60)
@given(seed=SEED, op_type=st.sampled_from(["Add", "Mul", "Max", "Min", "Greater", "Where", "Sub"]),
       a=st.lists(st.sampled_from([1, 2, 3]), max_size=3), b=st.lists(st.sampled_from([1, 2, 3]), max_size=3))
def test_broadcasting(seed, op_type, a, b):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in (a, b))
    inputs = [x > 0, x, y] if op_type == "Where" else [x, y]
    op = Operator(op_type, version=17)
    try:
        np.broadcast_shapes(tuple(a), tuple(b))
    except ValueError:
        with pytest.raises(ValueError, match=f"{op_type}: `shapes` must broadcast"):
            evaluate(op, inputs)
    else:
        check(op, inputs, onnxruntime(op, inputs))


@pytest.mark.parametrize("op_type, attributes", [
    ("Relu", {}), ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.7}), ("Selu", {}), ("Celu", {"alpha": 0.6}),
    ("ThresholdedRelu", {"alpha": 0.4}), ("Sigmoid", {}), ("HardSigmoid", {"alpha": 0.3}), ("HardSwish", {}),
    ("Softplus", {}),
    ("Softsign", {}), ("Erf", {}), ("Mish", {}), ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("Shrink", {"bias": 0.2}),
    ("Tanh", {}), ("Reciprocal", {}), ("Round", {}), ("Sign", {}), ("Floor", {}), ("Ceil", {}), ("Exp", {}), ("Sqrt", {}),
])
def test_functions_of_one_array(op_type, attributes):
    x = np.concatenate([np.linspace(-4, 4, 81), [1e4, -1e4, 80, -80]]).astype(np.float32)
    x = np.abs(x) if op_type == "Sqrt" else np.clip(x, -80, 80) if op_type == "Exp" else x
    op = Operator(op_type, version=20, attributes=attributes)
    check(op, [x], onnxruntime(op, [x]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op_type", ["Sigmoid", "Gelu", "Softplus", "Erf", "Elu"])
def test_half_precision_is_rounded_once(op_type):
    x = np.linspace(-4, 4, 33).astype(np.float16)
    (y,) = evaluate(Operator(op_type, version=20), [x])
    (exact,) = evaluate(Operator(op_type, version=20), [x.astype(np.float64)])
    np.testing.assert_array_equal(y, exact.astype(np.float16))


def test_erf_is_exact_in_double_precision():
    x = np.linspace(-6, 6, 101)
    (y,) = evaluate(Operator("Erf", version=13), [x])
    np.testing.assert_array_equal(y, [math.erf(v) for v in x])


@pytest.mark.parametrize("version", [1, 6, 11, 13])
def test_clip_of_every_version(version):
    x = np.linspace(-3, 3, 13).astype(np.float32)
    bounds = {"min": -1.0, "max": 2.0} if version < 11 else {}
    inputs = [x] if version < 11 else [x, np.array(-1, np.float32), np.array(2, np.float32)]
    check(Operator("Clip", version=version, attributes=bounds), inputs, [np.clip(x, -1, 2)])


def test_clip_by_one_bound():
    x = np.array([-3, 0, 3], np.int8)
    check(Operator("Clip", version=13), [x, None, np.array(1, np.int8)], [np.minimum(x, np.int8(1))])
    check(Operator("Clip", version=13), [x], [x])


@pytest.mark.parametrize("version", [1, 6, 7, 10, 12, 13])
def test_dropout_of_every_version_passes_through(version):
    x = np.ones((2, 3), np.float32)
    op = Operator("Dropout", version=version, attributes={"ratio": 0.5} if version < 12 else {}, wanted=(True, True))
    y, mask = evaluate(op, [x])
    np.testing.assert_array_equal(y, x)
    assert mask.dtype == (np.bool_ if version >= 10 else np.float32) and mask.all()


PLAIN = [np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]
CODES = {np.dtype(t): code for t, code in zip(PLAIN, (9, 2, 3, 5, 6, 7, 10, 1, 11), strict=True)}


@pytest.mark.parametrize("source", PLAIN)
def test_casts_among_plain_dtypes(source):
    x = np.array([0, 1, 2, 100, 1.75]).astype(source)
    for target, code in CODES.items():
        op = Operator("Cast", version=13, attributes={"to": code})
        check(op, [x], onnxruntime(op, [x]))
        check(Operator("CastLike", version=15), [x, np.zeros(2, target)], [x.astype(target)])


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_float8_saturates_where_asked(name, saturate):
    code = getattr(TensorProto, name.replace("_", "").upper())
    x = np.array([0.1, -1e6, np.inf, 3], np.float32)
    (y,) = evaluate(Operator("Cast", version=19, attributes={"to": code, "saturate": saturate}), [x])
    assert y.dtype.name == name
    most = float(ml_dtypes.finfo(y.dtype).max)
    wide = y.astype(np.float32)
    assert wide[3] == 3 and (wide[1] == -most if saturate else not abs(wide[1]) <= most)


def test_casts_of_text_and_names():
    (y,) = evaluate(Operator("Cast", version=13, attributes={"to": TensorProto.INT64}), [np.array(["12", "-3"], object)])
    assert y.tolist() == [12, -3]
    (z,) = evaluate(Operator("Cast", version=13, attributes={"to": TensorProto.STRING}), [np.array([1, 2])])
    assert z.dtype == object and z.tolist() == ["1", "2"]
    (w,) = evaluate(Operator("Cast", version=1, attributes={"to": "INT32"}), [np.array([1.5])])
    assert w.dtype == np.int32


@pytest.mark.parametrize("code", [None, 0, 999, "NO"])
def test_unknown_dtypes_are_refused(code):
    with pytest.raises(ValueError, match="Cast: `to` must be an ONNX data type"):
        evaluate(Operator("Cast", version=13, attributes={"to": code}), [np.zeros(1)])


def test_dtypes_that_differ_are_refused():
    with pytest.raises(TypeError, match="Add: `inputs` must have one dtype"):
        evaluate(Operator("Add", version=14), [np.zeros(1, np.int32), np.zeros(1, np.int64)])
    with pytest.raises(TypeError, match="Where: `inputs` must be bool and two of one dtype"):
        evaluate(Operator("Where", version=16), [np.zeros(1), np.zeros(1), np.zeros(1)])
