"""A convolution and the 2 x 2 maximum after it in one step: the bits of the two, on all levels, on several threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.memory import padded_channels
from cnnext.graph.passes import fuse_epilogues, optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.layers import _taps
from cnnext.testing import run_graph
from tests.layers.agreement import LEVELS
from tests.layers.test_pixels import PAD_PAIRS, Free, built, drawn, kernels_of, only

SIZES = st.one_of(st.integers(2, 12), st.integers(2, 80))
BY_LEVEL = pytest.mark.parametrize("level", LEVELS)


def graph_of(x, y):
    return prepare(Graph([x], [y], ancestors([y])), [x.shape], False)


@BY_LEVEL
@settings(max_examples=120, deadline=None)
@given(batch=st.integers(1, 3), size=st.tuples(SIZES, SIZES), channels=st.integers(1, 5), filters=st.integers(1, 19),
       kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       padding=PAD_PAIRS, dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), groups=st.integers(1, 3),
       activation=st.sampled_from([None, "relu", "relu6"]), threads=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
@example(batch=1, size=(28, 28), channels=1, filters=6, kernel=(5, 5), strides=(1, 1), padding=((2, 2), (2, 2)),
         dilation=(1, 1), groups=1, activation="relu", threads=2, seed=0)
@example(batch=2, size=(77, 79), channels=1, filters=8, kernel=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)),
         dilation=(1, 1), groups=1, activation=None, threads=3, seed=1)
def test_bits_of_the_two_steps(level, batch, size, channels, filters, kernel, strides, padding, dilation, groups, activation,
                               threads, seed):
    convolved = [(n + sum(pads) - (k - 1) * d - 1) // s + 1
                 for n, pads, k, d, s in zip(size, padding, kernel, dilation, strides, strict=True)]
    assume(min(convolved) >= 2)
    rng = np.random.default_rng(seed)
    layer = built(rng, cx.Conv2D(filters * groups, kernel, strides, padding, dilation, groups, activation=activation),
                  channels * groups)
    x = Value((batch, *size, channels * groups), name="x")
    graph = graph_of(x, cx.MaxPool2D(2)(layer(x)))
    src = np.round(2 * drawn(rng, *x.shape))    # with ties
    src.flat[rng.integers(src.size)] = rng.choice([np.inf, -np.inf, np.nan, 1])
    with only(_taps.Direct()):
        (expected,) = run_graph(fuse_epilogues(graph), [src], level=level)
    with only(_taps.Direct(), Free()):
        fused = optimize(graph)
        assert kernels_of(Plan(fused, level)) == ["conv_pixels"]
        np.testing.assert_array_equal(run_graph(fused, [src], level=level, n_threads=threads)[0], expected)
    with only(_taps.Direct()):
        apart = optimize(graph)
        assert kernels_of(Plan(apart, level)) == ["conv_direct", "pool"]
        np.testing.assert_array_equal(run_graph(apart, [src], level=level, n_threads=threads)[0], expected)


@BY_LEVEL
def test_inside_a_concat(level):
    rng = np.random.default_rng(0)
    layer = built(rng, cx.Conv2D(5, 3, padding="same"), 3)
    x = Value((2, 12, 40, 3), name="x")
    graph = graph_of(x, cx.Concat()([cx.MaxPool2D(2)(x), cx.MaxPool2D(2)(layer(x))]))
    src = drawn(rng, *x.shape)
    with only(_taps.Direct()):
        (expected,) = run_graph(graph, [src], level=level)
    with only(_taps.Direct(), Free()):
        fused = optimize(graph)
        assert sorted(kernels_of(Plan(fused, level))) == ["conv_pixels", "pool"]
        np.testing.assert_array_equal(run_graph(fused, [src], level=level, n_threads=2)[0], expected)


def test_pixels_between_the_two_are_padded():
    """256 channels in groups: what lies between convolution and pool has the channel stride of any other value."""
    rng = np.random.default_rng(0)
    layer = built(rng, cx.Conv2D(256, 1, groups=16), 256)
    x = Value((1, 6, 6, 256), name="x")
    assert padded_channels(x.shape) == 272
    graph = graph_of(x, cx.MaxPool2D(2)(layer(x)))
    src = drawn(rng, *x.shape)
    with only(_taps.Direct()):
        plan = Plan(optimize(graph), LEVELS[-1])
        assert plan.steps[0].dst[0].strides[2] == 272
        np.testing.assert_array_equal(plan.run([src])[0], run_graph(graph, [src], level=LEVELS[-1])[0])
