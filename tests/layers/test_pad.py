"""Pad against numpy.pad and its adjoint: every mode, any axes, elements taken away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Graph, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.reference import pad, pad_backward
from cnnext.testing import run_graph, run_layer
from tests.layers.agreement import LEVELS, SEED, check_agreement, close
from tests.layers.padded import check_padded

MODES = ["constant", "reflect", "edge", "wrap"]


def check(shape, pairs, mode, value=0.0, level=LEVELS[-1], n_threads=3, seed=0):
    pads = (*(b for b, _ in pairs), *(a for _, a in pairs))
    check_agreement(cx.Pad(pads, mode, value), [shape], lambda x: pad(x, pairs, mode, value),
                    lambda x, dy: [pad_backward(x, dy, pairs, mode)], level, n_threads, seed)


@st.composite
def cases(draw):
    mode = draw(st.sampled_from(MODES))
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7]), min_size=1, max_size=4)))
    pairs = []
    for size in shape:
        taken = [-draw(st.integers(0, (size - 1) // 2)) for _ in range(2)]
        left = size + sum(taken)
        most = {"constant": 3, "reflect": left - 1, "edge": 3, "wrap": left}[mode]
        pairs.append(tuple(t if t else draw(st.integers(0, most)) for t in taken))
    return shape, pairs, mode


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=120, deadline=None)
@given(case=cases(), value=st.sampled_from([0.0, -2.5]), n_threads=st.integers(2, 4), seed=SEED)
def test_against_numpy(level, case, value, n_threads, seed):
    check(*case, value, level, n_threads, seed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "pairs"), [
    ((2, 64, 60, 24), [(0, 0), (1, 2), (3, 1), (0, 0)]), ((2, 24, 64, 60), [(0, 0), (0, 0), (1, 2), (3, 1)]),
    ((3, 20000), [(1, 1), (2, 2)]),
])
def test_large(mode, shape, pairs):
    check(shape, pairs, mode, 1.5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_padded(level, mode):
    # as many added as taken away, so that the shape stays
    check_padded(cx.Pad((0, 1, -1, 0, 0, -1, 1, 0), mode), level)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_value(value):
    assert run_layer(cx.Pad((0, 1, 0, 0), value=value), [np.ones((1, 1))]).outputs[0].tolist() == [[value, 1.0]]


def test_borders_are_no_constant_of_the_plan():
    # a run writes beside them, so they are written in each run too: runs must not share the memory
    src = Value((1, 4, 4, 3))
    graph = Graph([src], [])
    graph.outputs = graph.apply(cx.Exp(), graph.apply1(cx.Pad((0, 1, 1, 0, 0, 1, 1, 0)), src))
    plan = Plan(graph, LEVELS[-1])
    assert not plan._prologue and len(plan.steps) == 6


def test_commutes_with_transposes():
    src = Value((2, 5, 4, 3))
    graph = Graph([src], [])
    first = graph.apply1(cx.Permute((0, 3, 1, 2)), src)
    padded = graph.apply1(cx.Pad((0, 0, 1, 2, 0, 0, 3, 0), "edge"), first)
    graph.outputs = graph.apply(cx.Permute((0, 2, 3, 1)), padded)
    x = np.random.default_rng(0).standard_normal(src.shape).astype(np.float32)
    optimized = optimize(prepare(graph, [src.shape], training=False))
    assert [node.layer.type_name for node in optimized.nodes] == ["cnnext/Pad@1"]
    close(run_graph(optimized, [x])[0], np.pad(x, ((0, 0), (1, 3), (2, 0), (0, 0)), mode="edge"))


def test_shapes():
    assert cx.Pad((0, 1, 0, -2)).infer_shapes((None, 8)) == [(None, 7)]
    assert cx.Pad((0, 0, 0, 0)).is_identity(False) and not cx.Pad((0, 1)).is_identity(False)


@pytest.mark.parametrize(("layer", "rule"), [
    (cx.Pad((1, 1, 1), name="p"), "be 4 numbers, before and after each axis"),
    (cx.Pad((0, 3, 0, 0), "reflect", name="p"), "be within what mode 'reflect' finds in the source"),
    (cx.Pad((0, 4, 0, 0), "wrap", name="p"), "be within what mode 'wrap' finds in the source"),
    (cx.Pad((0, -4, 0, 0), name="p"), "be within what mode 'constant' finds in the source"),
])
def test_bad_pads(layer, rule):
    with pytest.raises(ValueError, match=f"^pad 'p': `pads` must {rule}"):
        layer.infer_shapes((2, 3))
