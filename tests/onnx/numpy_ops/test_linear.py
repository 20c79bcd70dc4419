"""Matrix products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime


@pytest.mark.parametrize("a, b", [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
                                  ((5, 1, 2, 3), (6, 3, 4)), ((3,), (2, 3, 4)), ((2, 0), (0, 3))])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64])
def test_matmul(a, b, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, shape).astype(dtype) for shape in (a, b))
    check(Operator("MatMul", version=13), [x, y], [np.asarray(np.matmul(x, y))])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), ta=st.integers(0, 1), tb=st.integers(0, 1), alpha=st.sampled_from([1.0, 0.5]),
       beta=st.sampled_from([1.0, 0.25, 0.0]), c=st.sampled_from([None, (), (4,), (2, 1), (2, 4)]))
def test_gemm(seed, ta, tb, alpha, beta, c):
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal((3, 2) if ta else (2, 3)), rng.standard_normal((4, 3) if tb else (3, 4)),
              None if c is None else rng.standard_normal(c)]
    inputs = [None if x is None else np.asarray(x, np.float32) for x in inputs]
    op = Operator("Gemm", version=11, attributes={"transA": ta, "transB": tb, "alpha": alpha, "beta": beta})
    check(op, inputs, onnxruntime(op, inputs))


def test_einsum():
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4, 5))]
    check(Operator("Einsum", version=12, attributes={"equation": "bij, bjk -> bik"}), inputs, [inputs[0] @ inputs[1]])


@pytest.mark.parametrize("op_type, a, b", [("MatMul", (2, 3), (2, 3)), ("MatMul", (), (3,)), ("Gemm", (2, 3), (2, 3)),
                                           ("Gemm", (2, 3, 1), (3, 2))])
def test_shapes_that_do_not_fit(op_type, a, b):
    with pytest.raises(ValueError, match=f"{op_type}: `inputs` must be matrices that can be multiplied"):
        evaluate(Operator(op_type, version=13), [np.zeros(a, np.float32), np.zeros(b, np.float32)])


def test_a_product_too_large_is_refused():
    a, b = np.broadcast_to(np.float32(1), (2**20, 1)), np.broadcast_to(np.float32(1), (1, 2**20))
    with pytest.raises(ValueError, match="MatMul: `output` must have at most"):
        evaluate(Operator("MatMul", version=13), [a, b])
