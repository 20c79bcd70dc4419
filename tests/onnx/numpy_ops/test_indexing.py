"""Gather, scatter, slice, rank: against ONNX Runtime, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnext.onnx.operator import Operator
from tests.onnx.numpy_ops.oracles import check, evaluate, onnxruntime

SEED = st.integers(0, 2**32 - 1)


def ints(*values):
    """An operand."""
    return np.array(values, np.int64)


@settings(max_examples=60)
@given(seed=SEED, axis=st.integers(-3, 2), shape=st.lists(st.integers(0, 3), max_size=2),
       dtype=st.sampled_from([np.int32, np.int64]))
def test_gather(seed, axis, shape, dtype):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    n = x.shape[axis]
    op = Operator("Gather", version=13, attributes={"axis": axis})
    inputs = [x, rng.integers(-n, n, shape).astype(dtype) if shape else np.array(rng.integers(-n, n), dtype)]
    check(op, inputs, onnxruntime(op, inputs))


@settings(max_examples=40)
@given(seed=SEED, axis=st.integers(-2, 1), n=st.integers(1, 5))
def test_gather_elements(seed, axis, n):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    shape = (n, 2) if axis % 2 == 0 else (2, n)
    op = Operator("GatherElements", version=13, attributes={"axis": axis})
    inputs = [x, rng.integers(-x.shape[axis], x.shape[axis], shape)]
    check(op, inputs, onnxruntime(op, inputs))


@settings(max_examples=40)
@given(seed=SEED, batch=st.integers(0, 2), depth=st.integers(1, 3), more=st.lists(st.integers(1, 3), max_size=2))
def test_gather_nd(seed, batch, depth, more):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    depth = min(depth, 4 - batch)
    indices = np.stack([rng.integers(-n, n, (*x.shape[:batch], *more)) for n in x.shape[batch:batch + depth]], -1)
    op = Operator("GatherND", version=13, attributes={"batch_dims": batch})
    check(op, [x, indices], onnxruntime(op, [x, indices]))


@settings(max_examples=60)
@given(seed=SEED, axis=st.integers(-2, 1), reduction=st.sampled_from(["none", "add", "mul", "max", "min"]))
def test_scatter_elements(seed, axis, reduction):
    rng = np.random.default_rng(seed)
    x, updates = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((2, 3)).astype(np.float32)
    n = x.shape[axis]
    indices = rng.integers(0, n, (2, 3)) if reduction != "none" else np.argsort(rng.random((n, n)), axis)[:2, :3]
    indices -= n * rng.integers(0, 2, indices.shape)
    op = Operator("ScatterElements", version=18, attributes={"axis": axis, "reduction": reduction})
    check(op, [x, indices, updates], onnxruntime(op, [x, indices, updates]))


def test_old_scatter():
    x, indices = np.zeros((3, 3), np.float32), ints([1, 0, 2])
    op = Operator("Scatter", version=9)
    updates = np.ones((1, 3), np.float32)
    check(op, [x, indices, updates], onnxruntime(op, [x, indices, updates]))
    assert not x.any()  # inputs are not written to


@settings(max_examples=60)
@given(seed=SEED, depth=st.integers(1, 3), reduction=st.sampled_from(["none", "add", "mul", "max", "min"]))
def test_scatter_nd(seed, depth, reduction):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    places = rng.permutation(int(np.prod(x.shape[:depth])))[:3] if reduction == "none" else rng.integers(0, 3, 4)
    indices = np.stack(np.unravel_index(places, x.shape[:depth]), -1)
    inputs = [x, indices, rng.standard_normal((len(places), *x.shape[depth:])).astype(np.float32)]
    op = Operator("ScatterND", version=18, attributes={"reduction": reduction})
    check(op, inputs, onnxruntime(op, inputs))


BOUND = st.one_of(st.integers(-8, 8), st.sampled_from([-2**63, 2**63 - 1, -2**31, 2**31 - 1]))


@settings(max_examples=150)
@given(axes=st.lists(st.tuples(BOUND, BOUND, st.sampled_from([-3, -2, -1, 1, 2, 5])), min_size=1, max_size=3),
       order=st.permutations(range(3)),
       negative=st.booleans())
def test_slice(axes, order, negative):
    # To ONNX Runtime these ends say "as far as there is" backwards too, where ONNX asks for the least integer.
    assume(not any(step < 0 and end in (2**31 - 1, 2**63 - 1) for _, end, step in axes))
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    starts, ends, steps = (ints(*column) for column in zip(*axes))
    names = ints(*(a - 3 if negative else a for a in order[:len(axes)]))
    op = Operator("Slice", version=13)
    inputs = [x, starts, ends, names, steps]
    check(op, inputs, onnxruntime(op, inputs))
    if (steps == 1).all():
        old = {"starts": starts.tolist(), "ends": ends.tolist(), "axes": names.tolist()}
        check(Operator("Slice", version=1, attributes=old), [x], onnxruntime(op, inputs))


def test_slice_without_axes_and_with_int32():
    x = np.arange(12).reshape(3, 4)
    check(Operator("Slice", version=13), [x, ints(1).astype(np.int32), ints(3).astype(np.int32)], [x[1:3]])
    with pytest.raises(ValueError, match="Slice: `steps` must not be 0"):
        evaluate(Operator("Slice", version=13), [x, ints(1), ints(3), ints(0), ints(0)])
    with pytest.raises(ValueError, match="Slice: `starts` must have as many elements"):
        evaluate(Operator("Slice", version=13), [x, ints(1), ints(3, 2)])


@pytest.mark.parametrize("axis", [None, 0, 1, -1, -2])
def test_one_hot(axis):
    indices = ints(0, 2, -1, 7, -9)
    op = Operator("OneHot", version=11, attributes={} if axis is None else {"axis": axis})
    inputs = [indices, ints(3), np.array([1, 5], np.float32)]
    check(op, inputs, onnxruntime(op, inputs))


def test_nonzero_and_compress():
    x = np.array([[0, 1.5], [2, 0], [0, 0]], np.float32)
    for op, inputs in ((Operator("NonZero", version=13), [x]),
                       (Operator("NonZero", version=13), [np.zeros((0, 3), np.float32)]),
                       (Operator("Compress", version=11), [x, np.array([0, 1, 1, 0], bool)]),
                       (Operator("Compress", version=11, attributes={"axis": 0}), [x, np.array([1, 0, 1], bool)])):
        check(op, inputs, onnxruntime(op, inputs))


@settings(max_examples=100)
@given(seed=SEED, shape=st.sampled_from([(100,), (2, 90), (90, 2), (3, 4, 40), (70, 3)]), axis=st.integers(-1, 0),
       k=st.integers(0, 6),
       largest=st.integers(0, 1), dtype=st.sampled_from([np.float32, np.int64]), ties=st.booleans())
def test_top_k(seed, shape, axis, k, largest, dtype, ties):
    rng = np.random.default_rng(seed)
    x = (rng.integers(-5, 5, shape) if ties else rng.permutation(int(np.prod(shape))).reshape(shape)).astype(dtype)
    k = min(k, shape[axis])
    op = Operator("TopK", version=11, attributes={"axis": axis, "largest": largest}, wanted=(True, True))
    order = np.argsort(-x if largest else x, axis=axis, kind="stable").take(range(k), axis)  # the first of equals first
    check(op, [x, ints(k)], [np.take_along_axis(x, order, axis), order], atol=0)
    if largest:
        check(Operator("TopK", version=1, attributes={"axis": axis, "k": k}, wanted=(True, True)), [x],
              [np.take_along_axis(x, order, axis), order], atol=0)


def test_top_k_of_what_cannot_be_compared():
    x = np.full((1, 100), np.nan, np.float32)
    values, indices = evaluate(Operator("TopK", version=11, wanted=(True, True)), [x, ints(3)])
    assert np.isnan(values).all() and indices.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("op, inputs, rule", [
    (Operator("Gather", version=13, attributes={"axis": 2}), [np.zeros((2, 2)), ints(0)], "`axis` must lie in"),
    (Operator("Gather", version=13), [np.zeros((2, 2)), ints(2)], "IndexError"),
    (Operator("GatherND", version=13), [np.zeros((2, 2)), ints(0, 0, 0)], "`indices` must address 1 to 2 axes"),
    (Operator("GatherND", version=13, attributes={"batch_dims": 5}), [np.zeros((2, 2)), ints([0])],
     "`batch_dims` must count"),
    (Operator("ScatterND", version=13), [np.zeros((2, 2)), ints([0]), np.zeros(1)], "`updates` must have the shape"),
    (Operator("ScatterElements", version=13), [np.zeros(2), ints(5), np.zeros(1)], "IndexError"),
    (Operator("ScatterElements", version=18, attributes={"reduction": "xor"}), [np.zeros(2), ints(0), np.zeros(1)],
     "`reduction` must be"),
    (Operator("TopK", version=11, wanted=(True, True)), [np.zeros(4), ints(9)], r"`k` must lie in \[0, 4\]"),
    (Operator("OneHot", version=11), [ints(1), ints(-3), np.zeros(2)], "`depth` must not be negative"),
    (Operator("OneHot", version=11), [ints(1), ints(2**50), np.zeros(2)], "`output` must have at most"),
])
def test_what_is_refused(op, inputs, rule):
    with pytest.raises(ValueError, match=f"{op.op_type}: .*{rule}"):
        evaluate(op, inputs)
