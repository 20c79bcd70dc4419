"""Reductions against their twins: any axes of any rank, the batch included, ties, infinities, nothing to reduce."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext.graph.graph import Graph, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.layers.concat import Narrow
from cnnext.testing import run_graph, run_layer
from tests.layers.agreement import LEVELS, SEED, check_agreement, close

EXTENT = st.sampled_from([1, 2, 3, 7, 13])
FAMILY = [cx.ReduceSum, cx.ReduceMean, cx.ReduceMax, cx.ReduceMin, cx.ReduceL1, cx.ReduceL2, cx.ReduceSumSquare,
          cx.ReduceLogSumExp]


def twins(layer):
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")

    def diff(src, diff_dst):
        kept = forward(src, layer.axes, True).shape
        return [backward(src, diff_dst.reshape(kept), None if layer.axes is None else layer.reduced(src.shape))]

    return lambda src: np.asarray(forward(src, layer.axes, layer.keepdims)), diff


def check(layer, shape, level=LEVELS[-1], n_threads=3, seed=0):
    check_agreement(layer, [shape], *twins(layer), level, n_threads, seed)


@st.composite
def cases(draw, max_rank=4):
    shape = tuple(draw(st.lists(EXTENT, min_size=1, max_size=max_rank)))
    axes = tuple(draw(st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=len(shape))))
    return shape, tuple(a - len(shape) if draw(st.booleans()) else a for a in axes)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILY)
@settings(max_examples=25, deadline=None)
@given(case=cases(), keepdims=st.booleans(), n_threads=st.integers(2, 4), seed=SEED)
def test_twins(family, level, case, keepdims, n_threads, seed):
    shape, axes = case
    check(family(axes, keepdims), shape, level, n_threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data(), keepdims=st.booleans(), seed=SEED)
def test_products(level, shape, data, keepdims, seed):
    axes = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=len(shape))))
    check(cx.ReduceProd(axes, keepdims), tuple(shape), level, 2, seed)


@pytest.mark.parametrize("family", [*FAMILY, cx.ReduceProd])
def test_all_axes(family):
    check(family(), (2, 3, 5))


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize(("shape", "axes"), [
    ((2, 112, 65, 24), (1, 2)), ((2, 112, 65, 24), (0, 1, 2)), ((2, 112, 65, 24), (3,)), ((3, 20000), (0,)),
    ((3, 20000), (1,)), ((2, 9, 9, 300), (1, 3)), ((1, 30000, 3), (1,)), ((2, 3, 2, 3, 2, 3, 2, 3), (1, 3, 5, 7)),
    ((2, 3, 2, 3, 2, 3, 2, 3), (0, 2, 4, 6)),
])
def test_large(family, shape, axes):
    check(family(axes), shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("axes", [(1,), (2,), (0, 1)])
def test_source_and_result_inside_wider_values(channels, axes):
    graph = Graph([Value((2, 5, 6))], [])
    part = graph.apply1(Narrow(2, 1, channels, "part"), graph.inputs[0])
    kept = graph.apply1(cx.ReduceMax(axes, keepdims=True), part)
    graph.outputs = graph.apply(cx.Concat(axis=1), kept, kept)
    x = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    expected = x[..., 1 : 1 + channels].max(axis=axes, keepdims=True)
    np.testing.assert_array_equal(run_graph(graph, [x])[0], np.concatenate([expected, expected], axis=1))


def test_mean_of_images_is_the_kernel_of_the_pool():
    src = Value((2, 9, 9, 40))
    graph = Graph([src], [cx.ReduceMean((1, 2))(src)])
    graph.order()
    assert [s.kernel for s in Plan(graph, LEVELS[0]).steps] == ["global_avg"]


def test_ties_share_the_gradient():
    run = run_layer(cx.ReduceMin((1,)), [np.array([[1.0, 2.0, 1.0]])], [np.array([6.0])])
    assert run.diff_inputs[0].tolist() == [[3.0, 0.0, 3.0]]


def test_gradient_of_a_norm_of_zero():
    run = run_layer(cx.ReduceL2((1,)), [np.zeros((2, 3))], [np.full(2, 7.0)])
    assert not run.diff_inputs[0].any()


def test_product_with_zeros():
    run = run_layer(cx.ReduceProd((1,)), [np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0]])], [np.ones(2)])
    assert run.diff_inputs[0].tolist() == [[6.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_infinities_in_log_sum_exp():
    x = np.array([[-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 2.0], [1e30, 1e30], [-1e30, -1e30]], np.float32)
    assert run_layer(cx.ReduceLogSumExp((1,)), [x]).outputs[0].tolist() == [-np.inf, np.inf, 2.0, x[3, 0], x[4, 0]]


@pytest.mark.parametrize("family", [cx.ReduceMax, cx.ReduceMin, cx.ReduceSum, cx.ReduceMean, cx.ReduceL2])
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_stays_nan(family, axis):
    x = np.ones((150, 150), np.float32)
    x[140, 149] = np.nan
    dst = run_layer(family((axis,)), [x]).outputs[0]
    assert np.isnan(dst).sum() == 1


@pytest.mark.parametrize(("layer", "expected"), [
    (cx.ReduceSum((1,)), 0.0), (cx.ReduceMax((1,)), -np.inf), (cx.ReduceMin((1,)), np.inf), (cx.ReduceProd((1,)), 1.0),
    (cx.ReduceMean((1,)), np.nan), (cx.ReduceLogSumExp((1,)), -np.inf),
])
def test_nothing_to_reduce(layer, expected):
    np.testing.assert_array_equal(run_layer(layer, [np.zeros((2, 0, 3))]).outputs[0], np.full((2, 3), expected))


def test_long_sums_are_exact_enough():
    x = np.random.default_rng(0).uniform(0, 1, (1, 4_000_000)).astype(np.float32)
    close(run_layer(cx.ReduceMean((1,)), [x]).outputs[0], x.astype(np.float64).mean(axis=1), tolerance=2e-7)


def test_shapes():
    assert cx.ReduceMean((-1, 1), keepdims=True).infer_shapes((None, None, 7, 3)) == [(None, 1, 7, 1)]
    assert cx.ReduceMean((0,)).infer_shapes((None, None, 7)) == [(None, 7)]
    assert cx.ReduceSum(()).is_identity(False) and not cx.ReduceL1(()).is_identity(False)


@pytest.mark.parametrize(("axes", "rule"), [
    ((3,), r"be axes of the source, from -3 to 2\. Received axes=\(3,\)"),
    ((1, -2), r"name each axis once\. Received axes=\(1, -2\)"),
])
def test_bad_axes(axes, rule):
    with pytest.raises(ValueError, match=rf"reducesum 's': `axes` must {rule}"):
        cx.ReduceSum(axes, name="s")(cx.Input((4, 5)))


@pytest.mark.parametrize("layer", [cx.ReduceMean((2, 3)), cx.ReduceMax((-1,), keepdims=True), cx.ReduceSum((1,))], ids=repr)
def test_commutes_with_transposes(layer):
    # channels first around a channels-last reduction: the transposes meet or move behind the smaller result
    src = Value((2, 6, 5, 4))
    graph = Graph([src], [])
    first = graph.apply1(cx.Permute((0, 3, 1, 2)), src)
    graph.outputs = graph.apply(layer, first)
    x = np.random.default_rng(0).standard_normal(src.shape).astype(np.float32)
    expected = run_layer(layer, [x.transpose(0, 3, 1, 2)]).outputs[0]
    optimized = optimize(prepare(graph, [src.shape], training=False))
    close(run_graph(optimized, [x])[0], expected)
    assert optimized.nodes[0].layer.type_name == layer.type_name
