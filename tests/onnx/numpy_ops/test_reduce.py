"""Reductions against ONNX Runtime, in the forms of every version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx import numpy_ops
from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)
REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
              "ReduceLogSum", "ReduceLogSumExp"]


@settings(max_examples=150)
@given(seed=SEED, op_type=st.sampled_from(REDUCTIONS), axes=st.sampled_from([None, [0], [1], [-1], [0, 2], [0, 1, 2]]),
       keep=st.integers(0, 1), version=st.sampled_from([11, 18]))
def test_against_onnxruntime(seed, op_type, axes, keep, version):
    x = np.random.default_rng(seed).uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    attributes = {"keepdims": keep}
    new = version >= 18
    inputs = [x, np.array(axes)] if new and axes is not None else [x]
    if not new and axes is not None:
        attributes["axes"] = axes
    op = Operator(op_type, version=version, attributes=attributes)
    check(op, inputs, onnxruntime(op, inputs))


def test_the_sum_takes_its_axes_as_an_input_from_opset_13_on():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    check(Operator("ReduceSum", version=13, attributes={"keepdims": 0}), [x, np.array([1])], [x.sum(1)])
    check(Operator("ReduceSum", version=13, attributes={"noop_with_empty_axes": 1}), [x], [x])
    check(Operator("ReduceSum", version=13, attributes={"noop_with_empty_axes": 1}), [x, np.array([], np.int64)], [x])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float16, np.float64])
@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"])
def test_dtypes_stay(op_type, dtype):
    x = np.array([[1, 2, 4], [3, 3, 0]]).astype(dtype)
    function = {"ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod,
                "ReduceMean": np.mean}[op_type]
    check(Operator(op_type, version=18, attributes={"keepdims": 0}), [x, np.array([1])], [function(x, 1).astype(dtype)])


@pytest.mark.parametrize("op_type, neutral", [("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceSum", 0),
                                              ("ReduceProd", 1),
                                              ("ReduceLogSumExp", -np.inf)])
def test_what_has_no_elements_is_neutral(op_type, neutral):
    x = np.zeros((2, 0), np.float32)
    check(Operator(op_type, version=20), [x, np.array([1])], [np.full((2, 1), neutral, np.float32)])


def test_log_sum_exp_does_not_overflow():
    x = np.array([[1e4, 1e4], [-1e4, -1e4], [-np.inf, -np.inf], [np.inf, 0]], np.float32)
    (y,) = evaluate(Operator("ReduceLogSumExp", version=18, attributes={"keepdims": 0}), [x, np.array([1])])
    np.testing.assert_allclose(y, [1e4 + np.log(2), -1e4 + np.log(2), -np.inf, np.inf], rtol=1e-6)


@settings(max_examples=60)
@given(seed=SEED, op_type=st.sampled_from(["ArgMax", "ArgMin"]), axis=st.integers(-2, 1), keep=st.integers(0, 1),
       last=st.integers(0, 1))
def test_extrema_by_index(seed, op_type, axis, keep, last):
    x = np.random.default_rng(seed).integers(0, 3, (4, 5)).astype(np.float32)
    op = Operator(op_type, version=13, attributes={"axis": axis, "keepdims": keep, "select_last_index": last})
    check(op, [x], onnxruntime(op, [x]), atol=0)


@settings(max_examples=40)
@given(seed=SEED, axis=st.integers(-2, 1), exclusive=st.integers(0, 1), reverse=st.integers(0, 1), n=st.integers(0, 4))
def test_running_sum(seed, axis, exclusive, reverse, n):
    x = np.random.default_rng(seed).integers(-9, 9, (n, 3)).astype(np.int64)
    op = Operator("CumSum", version=14, attributes={"exclusive": exclusive, "reverse": reverse})
    inputs = [x, np.array(axis)]
    check(op, inputs, onnxruntime(op, inputs), atol=0)


def test_unknown_axes_decide_the_shape_unless_they_are_all():
    op = Operator("ReduceSum", version=13)
    types = [(np.dtype(np.float32), (2, 3)), (np.dtype(np.int64), (1,))]
    assert numpy_ops.infer(op, types, [None, None]) is None
    types[1] = (np.dtype(np.int64), (2,))
    assert numpy_ops.infer(op, types, [None, None]) == [(np.dtype(np.float32), (1, 1))]


@pytest.mark.parametrize("axes", [[2], [-3], [0, 0]])
def test_bad_axes(axes):
    with pytest.raises(ValueError, match="ReduceMax: `axes` must"):
        evaluate(Operator("ReduceMax", version=18), [np.zeros((2, 3), np.float32), np.array(axes)])
