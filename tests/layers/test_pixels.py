"""Convolutions with pixels in the lanes: the bits of the direct sum, on all levels, on several threads."""

from __future__ import annotations

import re
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.layers import _pixels, _taps
from cnnext.layers._pixels import Pixels
from cnnext.testing import run_graph, run_layer
from tests.layers.agreement import LEVELS

SIZES = st.one_of(st.integers(1, 9), st.integers(1, 50))
PADS = st.integers(0, 3)
PAD_PAIRS = st.tuples(st.tuples(PADS, PADS), st.tuples(PADS, PADS))
BY_LEVEL = pytest.mark.parametrize("level", LEVELS)


class Free(Pixels):
    """Chosen wherever it can be."""

    def cost(self, b, s):
        super().cost(b, s)
        return -1.0


@contextmanager
def only(*algorithms):
    before = _taps.ALGORITHMS
    _taps.ALGORITHMS = algorithms
    try:
        yield
    finally:
        _taps.ALGORITHMS = before


def kernels_of(plan):
    return [step.kernel for step in plan.steps]


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def built(rng, layer, channels):
    layer.build((1, 60, 60, channels))
    for weights in layer.weights.values():
        weights.assign(drawn(rng, *weights.data.shape))
    return layer


def assert_same(one, other):
    np.testing.assert_array_equal(one.outputs[0], other.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], other.diff_inputs[0])


@BY_LEVEL
@settings(max_examples=120, deadline=None)
@given(batch=st.integers(1, 3), size=st.tuples(SIZES, SIZES), channels=st.integers(1, 9), filters=st.integers(1, 19),
       kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       padding=PAD_PAIRS, dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), groups=st.integers(1, 3),
       threads=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
@example(batch=1, size=(28, 28), channels=1, filters=6, kernel=(5, 5), strides=(1, 1), padding=((2, 2), (2, 2)),
         dilation=(1, 1), groups=1, threads=2, seed=0)
@example(batch=2, size=(1, 50), channels=3, filters=8, kernel=(1, 1), strides=(1, 1), padding=((0, 0), (0, 0)),
         dilation=(1, 1), groups=1, threads=3, seed=1)
@example(batch=1, size=(1, 1), channels=1, filters=1, kernel=(1, 1), strides=(3, 3), padding=((3, 3), (3, 3)),
         dilation=(1, 1), groups=1, threads=2, seed=2)
def test_bits_of_the_direct_sum(level, batch, size, channels, filters, kernel, strides, padding, dilation, groups, threads,
                                seed):
    assume(all(n + sum(pads) > (k - 1) * d for n, pads, k, d in zip(size, padding, kernel, dilation, strict=True)))
    rng = np.random.default_rng(seed)
    layer = built(rng, cx.Conv2D(filters * groups, kernel, strides, padding, dilation, groups), channels * groups)
    src = drawn(rng, batch, *size, channels * groups)
    diff_dst = drawn(rng, *layer.infer_shapes(src.shape)[0])
    with only(_taps.Direct()):
        direct = run_layer(layer, [src], [diff_dst], level=level)
    with only(_taps.Direct(), Free()):
        for n_threads in (1, threads):
            assert_same(run_layer(layer, [src], [diff_dst], level=level, n_threads=n_threads), direct)


@BY_LEVEL
@pytest.mark.parametrize("size, channels, filters", [((3, 5000), 1, 1), ((200, 700), 2, 3), ((40, 30), 70, 5)])
def test_many_tiles(level, size, channels, filters):
    """Rows and columns of several tiles, planes that fill their share of the cache."""
    rng = np.random.default_rng(0)
    layer = built(rng, cx.Conv2D(filters, 3, padding="same"), channels)
    src = drawn(rng, 1, *size, channels)
    with only(_taps.Direct()):
        direct = run_layer(layer, [src], level=level).outputs[0]
    with only(_taps.Direct(), Free()):
        np.testing.assert_array_equal(run_layer(layer, [src], level=level, n_threads=3).outputs[0], direct)


@BY_LEVEL
def test_infinities_and_nans_stay_in_their_windows(level):
    """Each pixel has a lane of its own, and no product with a zero that the definition does not have."""
    rng = np.random.default_rng(0)
    layer = built(rng, cx.Conv2D(6, 5, padding="same"), 1)
    src = drawn(rng, 1, 28, 28, 1)
    src[0, 9, 11] = np.inf
    src[0, 20, 27] = np.nan
    with only(_taps.Direct(), Free()):
        finite = np.isfinite(run_layer(layer, [src], level=level).outputs[0]).all(axis=3)[0]
    expected = np.ones((28, 28), bool)
    expected[7:12, 9:14] = expected[18:23, 25:] = False
    np.testing.assert_array_equal(finite, expected)


@contextmanager
def runs_for_free():
    before = _pixels.RUN_CYCLES
    _pixels.RUN_CYCLES = 0
    try:
        yield
    finally:
        _pixels.RUN_CYCLES = before


@BY_LEVEL
@settings(max_examples=120, deadline=None)
@given(size=st.tuples(st.integers(1, 30), st.integers(1, 40)), channels=st.integers(1, 4), filters=st.integers(1, 9),
       rows=st.integers(1, 9), pads=st.tuples(st.integers(0, 9), st.integers(0, 9)), stride=st.integers(1, 3),
       dilation=st.integers(1, 2), groups=st.integers(1, 2), pooled=st.booleans(), bad=st.sampled_from([0, np.inf, np.nan]),
       threads=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
@example(size=(10, 10), channels=4, filters=6, rows=5, pads=(4, 4), stride=1, dilation=1, groups=1, pooled=False, bad=0,
         threads=2, seed=0)
@example(size=(30, 40), channels=1, filters=6, rows=9, pads=(9, 4), stride=1, dilation=1, groups=2, pooled=True, bad=0,
         threads=3, seed=1)
def test_rows_of_padding(level, size, channels, filters, rows, pads, stride, dilation, groups, pooled, bad, threads, seed):
    """Terms of padding are left out without a change of bits, and multiplied where a weight makes a NaN of them."""
    layer = cx.Conv2D(filters * groups, (rows, 3), (stride, 1), (pads, (1, 1)), (dilation, 1), groups)
    assume(size[0] + sum(pads) > (rows - 1) * dilation + stride * pooled and size[1] > 1)
    rng = np.random.default_rng(seed)
    built(rng, layer, channels * groups)
    if bad:
        weights = layer.weights["weights"].data.copy()
        weights.reshape(-1)[rng.integers(weights.size)] = bad
        layer.weights["weights"].assign(weights)
    x = Value((2, *size, channels * groups), name="x")
    y = cx.MaxPool2D(2)(layer(x)) if pooled else layer(x)
    graph = optimize(prepare(Graph([x], [y], ancestors([y])), [x.shape], False))
    src = drawn(rng, *x.shape)
    with only(_taps.Direct()):
        (direct,) = run_graph(graph, [src], level=level)
    with only(_taps.Direct(), Free()), runs_for_free():
        for n_threads in (1, threads):
            np.testing.assert_array_equal(run_graph(graph, [src], level=level, n_threads=n_threads)[0], direct)


@BY_LEVEL
@pytest.mark.parametrize("activation", [None, cx.ReLU, cx.ReLU6, cx.SiLU, cx.HardSwish, cx.Tanh])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("inside_concat", [False, True])
def test_epilogues_and_views(level, activation, use_bias, inside_concat):
    """Bias, clip and functions; a source that is a crop, a result that lies inside a concat."""
    rng = np.random.default_rng(0)
    layer = built(rng, cx.Conv2D(5, 3, use_bias=use_bias, padding=((1, 0), (0, 1))), 3)
    x = Value((2, 13, 21, 3), name="x")
    inner = cx.Crop2D(((1, 2), (2, 0)))(x)
    y = layer(inner)
    y = activation()(y) if activation else y
    y = cx.Concat()([cx.Crop2D(((0, 1), (1, 0)))(inner), y]) if inside_concat else y
    graph = optimize(prepare(Graph([x], [y], ancestors([y])), [x.shape], False))
    src = drawn(rng, *x.shape)
    with only(_taps.Direct()):
        (direct,) = run_graph(graph, [src], level=level)
    with only(_taps.Direct(), Free()):
        assert set(kernels_of(Plan(graph, level))) <= {"conv_pixels", "copy"}
        np.testing.assert_array_equal(run_graph(graph, [src], level=level, n_threads=2)[0], direct)


def test_choice():
    def plan(layer, shape):
        x = cx.Input(shape)
        return cx.Model(x, layer(x)).plan(1)

    for layer, shape in [(cx.Conv2D(6, 5, padding="same"), (28, 28, 1)), (cx.Conv2D(1, 3, padding="same"), (64, 64, 16))]:
        assert kernels_of(plan(layer, shape)) == ["conv_pixels"]
    for layer, shape in [(cx.Conv2D(32, 3, padding="same", strides=2), (64, 64, 3)), (cx.Dense(10), (84,))]:
        assert kernels_of(plan(layer, shape)) == ["conv_direct"]
    x = cx.Input((28, 28, 1))
    added = cx.Model(x, cx.Add()([cx.Conv2D(1, 5, padding="same")(x), x])).plan(1)
    assert kernels_of(added) == ["conv_direct"] and "not pixels in lanes: a value is added" in added.explain()


def test_choice_of_runs():
    """A full convolution, as backward-data of a valid one is, is mostly border; one of the same size is not."""
    x = Value((4, 10, 10, 16), name="x")

    def explained(pad):
        y = cx.Conv2D(6, 5, padding=((pad, pad), (pad, pad)))(x)
        return Plan(optimize(prepare(Graph([x], [y], ancestors([y])), [x.shape], False)), LEVELS[-1]).explain()

    found = re.search(r"pixels a tile, (\d+)% of the terms", explained(4))
    assert found and 71 <= int(found[1]) <= 80     # 50 of 70 rows x 5 taps at the least
    assert "of the terms" not in explained(0)
