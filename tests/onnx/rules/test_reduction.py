"""Reduce*: axes as attribute or operand, kept or not, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node

X = images(2, 3, 4, 5)
KINDS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
         "ReduceLogSumExp", "ReduceProd"]


@pytest.mark.parametrize("op_type", KINDS)
@pytest.mark.parametrize("axes", [[1], [2, 3], [-1], [0, 2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes(op_type, axes, keepdims):
    proto, feed = one_node(op_type, [X], {1: np.array(axes, np.int64)}, opset=18, keepdims=keepdims)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("op_type", KINDS)
def test_axes_as_attribute(op_type):
    proto, feed = one_node(op_type, [X], opset=11, axes=[1, -1], keepdims=0)
    assert is_native(check(proto, feed))
    proto, feed = one_node(op_type, [X], opset=11)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("constants", [{}, {1: np.zeros(0, np.int64)}], ids=["left out", "empty"])
def test_without_axes(noop, constants):
    proto, feed = one_node("ReduceSum", [X], constants, opset=13, noop_with_empty_axes=noop)
    check(proto, feed)


def test_axes_of_the_run():
    proto, feed = one_node("ReduceSum", [X, np.array([1, 2])], opset=13, keepdims=0)
    check(proto, feed, {**feed, "x1": np.array([0, -1])})


def test_others_are_numpys():
    proto, feed = one_node("ReduceLogSum", [np.abs(X) + 1], {1: np.array([1])}, opset=18)
    assert check(proto, feed) == ["numpy ReduceLogSum"]
    proto, feed = one_node("ReduceMax", [np.arange(6).reshape(2, 3)], {1: np.array([1])}, opset=18)
    assert check(proto, feed) == ["numpy ReduceMax"]
