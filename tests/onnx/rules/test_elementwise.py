"""Functions of one value and joins: which forms kernels compute, and their numbers, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import helper

from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node, onnx_model

X = images(2, 3, 4, 5)


@pytest.mark.parametrize("op_type", [
    "Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Exp", "Abs", "Neg", "Reciprocal", "Floor", "Ceil",
    "Round", "Sign", "Erf", "LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid", "Shrink", "Selu",
])
def test_functions(op_type):
    proto, feed = one_node(op_type, [2 * X])
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("op_type", ["Sqrt", "Log"])
def test_functions_of_positive_numbers(op_type):
    proto, feed = one_node(op_type, [np.abs(X) + 0.1])
    assert is_native(check(proto, feed))


@pytest.mark.parametrize(("op_type", "attributes"), [
    ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.7}), ("Celu", {"alpha": 2.0}), ("ThresholdedRelu", {"alpha": 0.4}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("Shrink", {"lambd": 0.3, "bias": 0.2}),
])
def test_functions_with_numbers(op_type, attributes):
    proto, feed = one_node(op_type, [X], **attributes)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    proto, feed = one_node("Gelu", [X], opset=20, approximate=approximate)
    assert is_native(check(proto, feed))


def test_an_unusual_selu_is_numpys():
    proto, feed = one_node("Selu", [X], alpha=1.5, gamma=1.1)
    assert check(proto, feed) == ["numpy Selu"]


@pytest.mark.parametrize("bounds", [{1: np.float32(-0.5), 2: np.float32(0.7)}, {1: None, 2: np.float32(0.3)},
                                    {1: np.float32(0.2)}, {}, {1: np.float32(1), 2: np.float32(-1)}], ids=str)
def test_clip_with_constant_bounds(bounds):
    proto, feed = one_node("Clip", [X], bounds, opset=13)
    assert is_native(check(proto, feed))


def test_clip_with_bounds_as_attributes():
    proto, feed = one_node("Clip", [X], opset=6, min=-0.5, max=0.25)
    assert is_native(check(proto, feed))


def test_clip_with_bounds_of_the_run():
    proto, feed = one_node("Clip", [X, np.array(-0.5, np.float32), np.array(0.5, np.float32)], opset=13)
    wider = {**feed, "x2": np.array(0.9, np.float32)}
    assert check(proto, feed, wider) == ["numpy Clip"]


@pytest.mark.parametrize(("slope", "native"), [
    ((3, 1, 1), True), ((1, 3, 1, 1), True), ((1,), True), ((1, 1, 1), True), ((5,), False), ((4, 5), False),
    ((3, 4, 5), False),
])
def test_prelu(slope, native):
    proto, feed = one_node("PRelu", [X], {1: np.abs(images(*slope))}, opset=16)
    assert is_native(check(proto, feed)) == native


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4)])
def test_a_slope_for_the_last_axis_is_not_one_for_the_channels(shape):
    proto, feed = one_node("PRelu", [images(*shape)], {1: images(4)}, opset=16)
    check(proto, feed)


def test_a_negative_slope():
    proto, feed = one_node("PRelu", [X], {1: np.full((1,), -0.5, np.float32)}, opset=16)
    check(proto, feed)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2, 3, None])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax(op_type, axis, opset):
    proto, feed = one_node(op_type, [X], opset=opset, **({} if axis is None else {"axis": axis}))
    assert is_native(check(proto, feed))


# Joins


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 1), (1, 3, 1, 1), (5,), (), (1,), (2, 1, 1, 1), (2, 3, 1, 1),
                                   (1, 1, 1, 1, 1), (4, 1)], ids=str)
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_arithmetic(op_type, shape, constant, turned):
    other = np.asarray(images(*shape) + 3)
    place = 0 if turned else 1
    if constant:
        proto, feed = one_node(op_type, [X + 5], {place: other})
    else:
        proto, feed = one_node(op_type, [other, X + 5] if turned else [X + 5, other])
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("divisor", [0.0, 1e-42, 3e38, float("inf"), float("nan"), -2.0])
def test_division_by_any_number(divisor):
    proto, feed = one_node("Div", [X], {1: np.float32(divisor)})
    with np.errstate(all="ignore"):
        check(proto, feed)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -0.0, 1.0])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
def test_arithmetic_with_special_numbers(op_type, number):
    proto, feed = one_node(op_type, [X], {1: np.float32(number)})
    check(proto, feed)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, 0.0, 1.0, -1.0, -0.5])
def test_powers(exponent):
    proto, feed = one_node("Pow", [np.abs(X) + 0.5], {1: np.float32(exponent)})
    check(proto, feed)


def test_a_power_of_negative_numbers():
    proto, feed = one_node("Pow", [X], {1: np.float32(2)})
    assert is_native(check(proto, feed))
    proto, feed = one_node("Pow", [X, np.array([2, 3, 2, 1, 0], np.int64)], opset=15)
    assert check(proto, feed) == ["numpy Pow"]


@pytest.mark.parametrize("op_type", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_joins_of_several(op_type, n):
    proto, feed = one_node(op_type, [images(2, 3, 4, 5, seed=i) if i != 1 else images(3, 1, 5) for i in range(n)])
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_other_element_types_are_numpys(dtype):
    proto, feed = one_node("Add", [np.arange(6).reshape(2, 3).astype(dtype), np.full((3,), 2, dtype)])
    assert check(proto, feed) == ["numpy Add"]


def test_no_elements():
    proto, feed = one_node("Relu", [np.zeros((0, 3), np.float32)])
    assert check(proto, feed) == []


def test_written_out_activations_become_one_step():
    def number(name, value):
        return helper.make_node("Constant", [], [name], value_float=value)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]), number("three", 3.0), number("six", 6.0), number("zero", 0.0),
        helper.make_node("Add", ["c", "three"], ["a"]), helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Mul", ["c", "b"], ["d"]), helper.make_node("Div", ["d", "six"], ["swish"]),
        helper.make_node("Conv", ["swish", "v"], ["e"]), helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Mul", ["e", "f"], ["silu"]),
    ]
    proto = onnx_model(nodes, {"x": ("N", 3, 8, 8)}, ["silu"], {"w": images(4, 3, 3, 3), "v": images(5, 4, 3, 3)})
    names = check(proto, {"x": images(2, 3, 8, 8)})
    assert [name for name in names if "conv" not in name and "transpose" not in name] == []
