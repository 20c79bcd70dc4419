"""Gemm and MatMul: which forms kernels compute, and their numbers, against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("onnx")

import cnnext as cx
from tests.helpers import images
from tests.onnx.imported import check, is_native, one_node


@pytest.mark.parametrize(("trans_a", "trans_b"), list(itertools.product((0, 1), (0, 1))))
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (0.25, 0.0)])
@pytest.mark.parametrize("constant", [True, False])
def test_gemm(trans_a, trans_b, alpha, beta, constant):
    a = images(*((4, 3) if trans_a else (3, 4)))
    b, c = images(*((5, 4) if trans_b else (4, 5)), seed=2), images(5, seed=3)
    arrays, constants = ([a], {1: b, 2: c}) if constant else ([a, b, c], {})
    proto, feed = one_node("Gemm", arrays, constants, transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    assert is_native(check(proto, feed))


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (3, 1), (1,), (), None])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_what_gemm_adds(shape, alpha):
    constants = {1: images(4, 5, seed=2)}
    if shape is not None:
        constants[2] = images(*shape, seed=3)
    proto, feed = one_node("Gemm", [images(3, 4)], constants, alpha=alpha, beta=0.5)
    assert is_native(check(proto, feed))


def test_a_constant_left_side():
    proto, feed = one_node("Gemm", [images(4, 5)], {0: images(3, 4)})
    check(proto, feed)


@pytest.mark.parametrize(("a", "b"), [
    ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 6, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 5)),
    ((3, 4), (2, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)),
], ids=str)
@pytest.mark.parametrize("constant", [True, False])
def test_matmul(a, b, constant):
    arrays = [images(*a)] if constant else [images(*a), images(*b, seed=2)]
    proto, feed = one_node("MatMul", arrays, {1: images(*b, seed=2)} if constant else {})
    assert is_native(check(proto, feed))


def test_a_constant_matrix_from_the_left():
    proto, feed = one_node("MatMul", [images(2, 4, 5)], {0: images(3, 4)})
    assert is_native(check(proto, feed))


def test_other_element_types_are_numpys():
    proto, feed = one_node("MatMul", [np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)])
    assert check(proto, feed) == ["numpy MatMul"]


@pytest.mark.parametrize(("op_type", "b", "text"), [
    ("Gemm", (3, 5), r"Gemm 'it': `B` must have 4 rows, the columns of A. Received B=\(3, 5\)"),
    ("MatMul", (3, 5), r"MatMul 'it': `B` must have 4 rows, the columns of A. Received B=\(3, 5\)"),
    ("Gemm", (1, 4, 5), "must be matrices"),
])
def test_errors(op_type, b, text):
    proto, feed = one_node(op_type, [images(2, 4)], {1: images(*b)})
    proto.graph.output[0].type.ClearField("tensor_type")
    with pytest.raises(ValueError, match=text):
        cx.InferenceSession(proto).run(None, feed)
