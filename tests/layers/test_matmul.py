"""MatMul against NumPy: transposed operands, broadcast batches, vectors, constants, ragged panels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Graph, Value, constant
from cnnext.graph.plan import Plan
from cnnext.layers.concat import Narrow
from cnnext.reference import matmul, matmul_backward
from cnnext.testing import run_graph
from tests.layers.agreement import LEVELS, SEED, check_agreement, close

EXTENT = st.sampled_from([1, 2, 3, 7, 13, 17, 33])


@st.composite
def operands(draw):
    m, k, n = draw(EXTENT), draw(EXTENT), draw(EXTENT)
    ta, tb = draw(st.booleans()), draw(st.booleans())
    batch = draw(st.lists(st.integers(1, 3), max_size=3))
    a, b = ([1 if draw(st.booleans()) else e for e in batch[draw(st.integers(0, len(batch))):]] for _ in range(2))
    return (*a, *((k, m) if ta else (m, k))), (*b, *((n, k) if tb else (k, n))), ta, tb


def check(a, b, ta=False, tb=False, level=LEVELS[-1], n_threads=3, seed=0):
    check_agreement(cx.MatMul(ta, tb), [a, b], lambda x, y: np.asarray(matmul(x, y, ta, tb)),
                    lambda x, y, dy: matmul_backward(x, y, dy, ta, tb), level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=80, deadline=None)
@given(case=operands(), n_threads=st.integers(2, 4), seed=SEED)
def test_against_numpy(level, case, n_threads, seed):
    check(*case, level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("a", "b", "ta", "tb"), [
    ((197, 768), (768, 100), False, False), ((12, 197, 64), (12, 197, 64), False, True),
    ((3, 5000), (5000, 70), False, False),
    ((5000, 3), (5000, 70), True, False), ((2, 1, 130, 40), (3, 40, 300), False, False),
    ((1, 256), (256, 1000), False, False),
    ((2, 1, 2, 1, 2, 1, 5, 7), (2, 2, 1, 2, 1, 2, 7, 9), False, False),
])
def test_large(a, b, ta, tb, level):
    check(a, b, ta, tb, level)


@pytest.mark.parametrize(("a", "b"), [((7,), (7,)), ((7,), (7, 5)), ((5, 7), (7,)), ((2, 5, 7), (7,)), ((7,), (3, 7, 5)),
                                      ((3, 7), (4, 7, 2))])
def test_vectors(a, b):
    check(a, b)


def test_constant_operand_is_packed_once():
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((2, 9, 17)).astype(np.float32), rng.standard_normal((17, 40)).astype(np.float32)
    src = Value(x.shape)
    graph = Graph([src], [])
    graph.outputs = graph.apply(cx.MatMul(), src, constant(weights))
    assert [s.kernel for s in Plan(graph, LEVELS[-1]).steps] == ["matmul"]
    close(run_graph(graph, [x])[0], x.astype(np.float64) @ weights)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("channels", [1, 5])
def test_inside_wider_values(level, transposed, channels):
    graph = Graph([Value((2, 6, 9))], [])
    a = graph.apply1(Narrow(2, 1, channels, "a"), graph.inputs[0])
    b = graph.apply1(Narrow(2, 3, channels, "b"), graph.inputs[0])
    y = graph.apply1(cx.MatMul(transposed, not transposed), a, b)
    graph.outputs = graph.apply(cx.Concat(axis=-1), y, y)
    x = np.random.default_rng(0).standard_normal((2, 6, 9)).astype(np.float32)
    expected = matmul(x[..., 1 : 1 + channels], x[..., 3 : 3 + channels], transposed, not transposed)
    close(run_graph(graph, [x], level=level)[0], np.concatenate([expected, expected], axis=-1))


def test_nothing_to_sum():
    check((2, 3, 0), (2, 0, 5))


def test_shapes():
    assert cx.MatMul().infer_shapes((None, 12, 49, 64), (12, 64, 49)) == [(None, 12, 49, 49)]
    assert cx.MatMul(transpose_b=True).infer_shapes((None, 64), (100, 64)) == [(None, 100)]


@pytest.mark.parametrize(("shapes", "rule"), [
    (((2, 3), (4, 5)), "agree: 3 columns on the left, 4 rows on the right"),
    (((2, 3, 4), (3, 4, 5)), "have shapes that broadcast to one"),
    (((), (4, 5)), "be matrices, or vectors that are not transposed"),
])
def test_bad_shapes(shapes, rule):
    with pytest.raises(ValueError, match=f"matmul 'm': `inputs` must {rule}"):
        cx.MatMul(name="m").infer_shapes(*shapes)
