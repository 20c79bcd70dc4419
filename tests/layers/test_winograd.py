"""Winograd's convolutions against the direct sum in float64: all levels, guard zones, bit-equal on several threads."""

from __future__ import annotations

import pickle
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.memory import padded_channels
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers import _taps
from cnnext.layers._winograd import Winograd, WinogradGradient
from cnnext.testing import run_graph, run_layer
from tests.layers.agreement import LEVELS, close, largest

PADS = st.integers(0, 2)
PAD_PAIRS = st.tuples(st.tuples(PADS, PADS), st.tuples(PADS, PADS))
SIZES = st.one_of(st.integers(1, 9), st.integers(1, 30))
CHANNELS = st.one_of(st.integers(1, 20), st.integers(1, 130))
SEEDS = st.integers(0, 2**32 - 1)
M = pytest.mark.parametrize("m", [2, 4])


class Free(Winograd):
    """Chosen wherever it can be."""

    def cost(self, b, s):
        return -1.0


class FreeGradient(WinogradGradient):
    """Likewise."""

    def cost(self, b, s):
        return -1.0


@contextmanager
def chosen(m):
    """F(m x m, 3 x 3) at whatever cost, for results and gradients."""
    before = _taps.ALGORITHMS, _taps.GRADIENT_ALGORITHMS
    _taps.ALGORITHMS = (_taps.Direct(), Free(m))
    _taps.GRADIENT_ALGORITHMS = (_taps.DirectGradient(), FreeGradient(m))
    try:
        yield
    finally:
        _taps.ALGORITHMS, _taps.GRADIENT_ALGORITHMS = before


def kernels_of(plan):
    return [step.kernel for step in plan.steps]


def tolerance(m, channels):
    # F(4x4) has about three times the error of a direct sum, and both grow with the root of the channels
    return (4e-6 if m == 2 else 1e-5) * max(1.0, channels / 64) ** 0.5


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def convolution(rng, channels, filters, padding, **kwargs):
    layer = cx.Conv2D(filters, 3, padding=padding, **kwargs)
    layer.build((1, 9, 9, channels))
    layer.weights["weights"].assign(drawn(rng, 3, 3, channels, filters) / (9 * channels) ** 0.5)
    if "bias" in layer.weights:
        layer.weights["bias"].assign(drawn(rng, filters))
    return layer, [p.data.astype(np.float64) for p in layer.weights.values()]


@M
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 5), size=st.tuples(SIZES, SIZES), channels=CHANNELS, filters=CHANNELS, padding=PAD_PAIRS,
       threads=st.integers(2, 4), seed=SEEDS)
@example(batch=1, size=(14, 14), channels=64, filters=66, padding=((1, 1), (1, 1)), threads=2, seed=0)
@example(batch=1, size=(7, 7), channels=130, filters=37, padding=((1, 1), (1, 1)), threads=3, seed=0)
@example(batch=5, size=(30, 29), channels=3, filters=20, padding=((0, 2), (1, 0)), threads=4, seed=0)
def test_forward_and_backward(m, level, batch, size, channels, filters, padding, threads, seed):
    assume(all(n + sum(pads) >= 3 for n, pads in zip(size, padding)))
    assume(channels * filters <= 3000 and batch * np.prod(size) * channels * filters < 1e6)     # the twin is slow
    rng = np.random.default_rng(seed)
    layer, (weights, bias) = convolution(rng, channels, filters, padding)
    src = drawn(rng, batch, *size, channels)
    expected = reference.conv2d(src.astype(np.float64), weights, bias, padding=padding)
    diff_dst = drawn(rng, *expected.shape)
    diff_src = reference.conv2d_backward_data(diff_dst.astype(np.float64), weights, src.shape, padding=padding)
    diff_weights = reference.conv2d_backward_weights(src.astype(np.float64), diff_dst.astype(np.float64), weights.shape,
                                                     padding=padding)
    with chosen(m):
        one, many = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n) for n in (1, threads))
    close(one.outputs[0], expected, tolerance(m, channels), max(1.0, largest(expected)))
    close(one.diff_inputs[0], diff_src, tolerance(m, filters), max(1.0, largest(diff_src)))
    pixels = expected.size / filters
    close(one.diff_weights["weights"], diff_weights, tolerance(m, 64), max(pixels**0.5, largest(diff_weights)))
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])
    np.testing.assert_array_equal(one.diff_weights["weights"], many.diff_weights["weights"])


@M
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", [None, cx.ReLU, cx.ReLU6, cx.SiLU, cx.HardSwish, cx.GELU, cx.Tanh])
@pytest.mark.parametrize("use_bias, residual", [(False, False), (True, False), (False, True), (True, True)])
def test_epilogues(m, level, activation, use_bias, residual):
    """Bias, added value, clip and functions: no step of their own, on whole and ragged tiles, with a channel tail."""
    rng = np.random.default_rng(0)
    layer, (weights, *bias) = convolution(rng, 19, 21, ((1, 1), (1, 1)), use_bias=use_bias)
    x, other = Value((2, 7, 9, 19), name="x"), Value((2, 7, 9, 21), name="other")
    y = layer(x)
    y = cx.Add()([y, other]) if residual else y
    y = activation()(y) if activation else y
    inputs = [x, other] if residual else [x]
    graph = optimize(prepare(Graph(inputs, [y], ancestors([y])), [v.shape for v in inputs], False))
    feeds = [drawn(rng, *v.shape) for v in inputs]
    expected = reference.conv2d(feeds[0].astype(np.float64), weights, *bias, padding=((1, 1), (1, 1)))
    expected = expected + feeds[1] if residual else expected
    if activation:
        expected = run_layer(activation(), [expected.astype(np.float32)]).outputs[0]
    with chosen(m):
        assert set(kernels_of(Plan(graph, level))) <= {"conv_winograd_src", "conv_winograd"}
        close(run_graph(graph, feeds, level=level, n_threads=2)[0], expected, 1e-5)


@M
@pytest.mark.parametrize("level", LEVELS)
def test_strided_views(m, level):
    """A source that is a crop of another value, a result that lies inside a concat."""
    rng = np.random.default_rng(1)
    layer, (weights, bias) = convolution(rng, 12, 18, ((1, 0), (0, 1)))
    x = Value((2, 13, 11, 12), name="x")
    inner = cx.Crop2D(((1, 2), (2, 0)))(x)
    y = cx.Concat()([layer(inner), cx.Conv2D(3, 1)(cx.Crop2D(((0, 1), (0, 1)))(inner))])
    graph = prepare(Graph([x], [y], ancestors([y])), [x.shape], False)
    src = drawn(rng, *x.shape)
    seen = src[:, 1:-2, 2:].astype(np.float64)
    with chosen(m):
        results = [run_graph(graph, [src], level=level), Plan(graph, level).run([src])]
    for (result,) in results:
        close(result[..., :18], reference.conv2d(seen, weights, bias, padding=((1, 0), (0, 1))), 1e-5)


@M
@pytest.mark.parametrize("level", LEVELS)
def test_padded_values(m, level):
    """The same bits where source and result are values of the arena, whose pixels lie further apart than their channels."""
    rng = np.random.default_rng(4)
    layer, _ = convolution(rng, 256, 256, "same")
    src = drawn(rng, 2, 3, 5, 256)
    assert padded_channels(src.shape) > 256
    dense = src
    with chosen(m):
        for each in (cx.Tanh(), layer, cx.Tanh()):
            dense = run_layer(each, [dense], level=level).outputs[0]
        x = Value(src.shape, name="x")
        graph = Graph([x], [y := cx.Tanh()(layer(cx.Tanh()(x)))], ancestors([y]))
        graph = prepare(graph, [src.shape], True)   # training: the last tanh stays a step of its own
        for (result,) in (run_graph(graph, [src], level=level), Plan(graph, level).run([src])):
            np.testing.assert_array_equal(result, dense)


@M
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("flip", [False, True])
def test_transposed_convolution(m, level, flip):
    """The transposed convolution of stride 1 is backward-data with its own bias."""
    rng = np.random.default_rng(2)
    src = drawn(rng, 2, 9, 10, 17)
    layer = cx.Conv2DTranspose(33, 3, padding=((1, 1), (0, 1)))
    flipped = cx.Conv2D(33, 3, padding="same", flip_kernel=flip)
    for each in (layer, flipped):
        each.build(src.shape)
        each.weights["bias"].assign(drawn(rng, 33))
    weights, bias = (p.data.astype(np.float64) for p in layer.weights.values())
    flat, flat_bias = (p.data.astype(np.float64) for p in flipped.weights.values())
    exact = src.astype(np.float64)
    with chosen(m):
        close(run_layer(layer, [src], level=level).outputs[0],
              reference.conv2d_transpose(exact, weights, bias, padding=((1, 1), (0, 1))), 1e-5)
        close(run_layer(flipped, [src], level=level).outputs[0],
              reference.conv2d(exact, reference.flip_kernel(flat) if flip else flat, flat_bias,
                               padding=((1, 1), (1, 1))), 1e-5)


@pytest.mark.parametrize("m, bound", [(2, 4e-6), (4, 1.5e-5)])
@pytest.mark.parametrize("channels", [64, 512])
def test_error(m, bound, channels):
    """The largest error over the root mean square of the result, on data as networks have it: far below 1e-4."""
    rng = np.random.default_rng(3)
    src = np.maximum(drawn(rng, 1, 16, 16, channels), 0)
    layer = cx.Conv2D(64, 3, padding="same", use_bias=False)
    layer.build(src.shape)
    weights = drawn(rng, 3, 3, channels, 64) * np.float32((2 / (9 * channels)) ** 0.5)
    layer.weights["weights"].assign(weights)
    padded = np.pad(src.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    expected = np.einsum("nhwkij,ijkc->nhwc", windows, weights.astype(np.float64), optimize=True)
    with chosen(m):
        got = run_layer(layer, [src], n_threads=2).outputs[0]
    assert np.abs(got - expected).max() / np.sqrt(np.mean(expected**2)) < bound


# The choice


def plan_of(layer, shape, **kwargs):
    x = cx.Input(shape)
    return cx.Model(x, layer(x), **kwargs).plan(1)


@pytest.mark.parametrize("layer, reason", [
    (cx.Conv2D(64, 3, strides=2), "strides"),
    (cx.Conv2D(64, 3, groups=2), "groups"),
    (cx.Conv2D(64, 3, dilation=2), "no window of 3x3 neighbours"),
    (cx.Conv2D(64, 5), "no window of 3x3 neighbours"),
    (cx.Conv2D(64, (1, 3)), "no window of 3x3 neighbours"),
])
def test_refusals_are_explained(layer, reason):
    plan = plan_of(layer, (56, 56, 64))
    assert kernels_of(plan) == ["conv_direct"]
    assert f"not winograd F(4x4,3x3) or winograd F(2x2,3x3): {reason}" in plan.explain()


def test_choice():
    for size, channels in ((56, 64), (28, 128), (14, 256), (112, 64)):
        plan = plan_of(cx.Conv2D(channels, 3, padding="same"), (size, size, channels))
        assert "conv_winograd" in kernels_of(plan)
        assert "winograd F(4x4,3x3): " in plan.explain() and "direct " in plan.explain()
    # three channels, or one pixel: the transforms are all there is
    assert kernels_of(plan_of(cx.Conv2D(16, 3, padding="same"), (56, 56, 1))) == ["conv_direct"]
    assert kernels_of(plan_of(cx.Conv2D(64, 3), (3, 3, 64))) == ["conv_direct"]


def test_exact(monkeypatch):
    def layer():
        return cx.Conv2D(64, 3, padding="same")

    net = cx.Sequential([layer()], input_shape=(56, 56, 64))
    src = drawn(np.random.default_rng(0), 1, 56, 56, 64)
    fast = net.predict(src)
    assert kernels_of(net.plan(1)) == ["conv_winograd"]
    session = cx.InferenceSession(net, exact=True)
    assert kernels_of(session.plan(src.shape)) == ["conv_direct"]
    assert kernels_of(pickle.loads(pickle.dumps(session)).plan(src.shape)) == ["conv_direct"]
    net.exact = True
    assert kernels_of(net.plan(1)) == ["conv_direct"]
    assert "winograd F(2x2,3x3): exact=True" in net.plan(1).explain()
    exact = net.predict(src)
    assert not np.array_equal(fast, exact)
    close(fast, exact, 1e-5)
    assert pickle.loads(pickle.dumps(net)).exact
    assert kernels_of(cx.InferenceSession(net).plan(src.shape)) == ["conv_direct"]
    assert kernels_of(plan_of(layer(), (56, 56, 64), exact=True)) == ["conv_direct"]
    monkeypatch.setenv("CNNEXT_EXACT", "1")
    assert kernels_of(plan_of(layer(), (56, 56, 64))) == ["conv_direct"]


def test_training_follows_the_model(monkeypatch):
    """A model that is exact trains without Winograd; another gives almost the same weights."""
    x = drawn(np.random.default_rng(0), 4, 28, 28, 32)
    y = np.arange(4, dtype=np.int64)

    def trained(exact):
        cx.set_random_seed(0)
        net = cx.Sequential([cx.Conv2D(32, 3, padding="same", activation="relu"), cx.Conv2D(32, 3, padding="same"),
                             cx.GlobalAvgPool2D(), cx.Dense(4)], input_shape=(28, 28, 32), exact=exact)
        net.compile(cx.SGD(0.1))
        net.fit(x, y, batch_size=4, epochs=2, verbose=0)
        return net, {kernel for built in net._trainer._plans.values() for kernel in kernels_of(built.plan)}

    (fast, fast_kernels), (exact, exact_kernels) = trained(False), trained(True)
    assert "conv_winograd" in fast_kernels and "conv_winograd_weights" in fast_kernels
    assert "conv_winograd" not in exact_kernels
    for a, b in zip(fast.get_weights(), exact.get_weights()):
        close(a, b, 1e-5, scale=1.0)


def test_only_what_is_used_is_kept():
    """The panels between the weights and their transform are memory of the preparation alone."""
    plan = plan_of(cx.Conv2D(64, 3, padding="same"), (56, 56, 64))
    plan.prepare()
    held = sum(s.array.nbytes for s in plan._storages if s.kind == "prologue" and s.array is not None)
    assert held == plan.prologue_bytes
    assert default_level() != "avx512" or held == (36 * (64 * 64 + 16) + 64) * 4
