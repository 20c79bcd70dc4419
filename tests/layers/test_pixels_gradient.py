"""Gradients of weights with pixels in the lanes: float64, all levels, guard zones, bit-equal on several threads."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.layers import _taps
from cnnext.layers._pixels import PixelsGradient
from cnnext.testing import run_graph, run_layer
from tests.layers.agreement import LEVELS, close, largest

SIZES = st.one_of(st.integers(1, 9), st.integers(1, 40))
PADS = st.integers(0, 3)
PAD_PAIRS = st.tuples(st.tuples(PADS, PADS), st.tuples(PADS, PADS))
BY_LEVEL = pytest.mark.parametrize("level", LEVELS)
PIXELS, DIRECT = "conv_pixels_backward_weights", "conv_backward_weights"


class Free(PixelsGradient):
    """Chosen wherever it can be."""

    def cost(self, b, s):
        super().cost(b, s)
        return -1.0


@contextmanager
def pixels_chosen():
    before = _taps.GRADIENT_ALGORITHMS
    _taps.GRADIENT_ALGORITHMS = (_taps.DirectGradient(), Free())
    try:
        yield
    finally:
        _taps.GRADIENT_ALGORITHMS = before


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def built(layer, channels):
    layer.build((1, 60, 60, channels))
    return layer


def gradient_graph(layer, shape):
    """Source and gradient of the result to the gradient of the layer's weights."""
    x = Value(shape, name="x")
    y = layer(x)
    graph = prepare(Graph([x], [y], ancestors([y])), [shape], training=True)
    diff_dst = Value(graph.outputs[0].shape, name="diff_dst")
    weights = [node.weights["weights"] for node in graph.nodes if node.layer is layer]
    graph.outputs = list(add_gradients(graph, graph.outputs, weights, [diff_dst]).values())
    graph.inputs.append(diff_dst)
    graph.order()
    return optimize(graph)


def exact_gradient(src, diff_dst, shape, **window):
    return reference.conv2d_backward_weights(src.astype(np.float64), diff_dst.astype(np.float64), shape, **window)


@BY_LEVEL
@settings(max_examples=80, deadline=None)
@given(batch=st.integers(1, 3), size=st.tuples(SIZES, SIZES), channels=st.integers(1, 9), filters=st.integers(1, 19),
       kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       padding=PAD_PAIRS, dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), groups=st.integers(1, 3),
       flip=st.booleans(), threads=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
@example(batch=64, size=(28, 28), channels=1, filters=6, kernel=(5, 5), strides=(1, 1), padding=((2, 2), (2, 2)),
         dilation=(1, 1), groups=1, flip=False, threads=2, seed=0)
@example(batch=2, size=(1, 50), channels=3, filters=8, kernel=(1, 1), strides=(1, 1), padding=((0, 0), (0, 0)),
         dilation=(1, 1), groups=1, flip=True, threads=3, seed=1)
@example(batch=1, size=(4, 1), channels=2, filters=3, kernel=(3, 3), strides=(1, 1), padding=((3, 3), (3, 3)),
         dilation=(1, 1), groups=1, flip=False, threads=2, seed=2)
def test_against_float64(level, batch, size, channels, filters, kernel, strides, padding, dilation, groups, flip, threads,
                         seed):
    assume(all(n + sum(pads) > (k - 1) * d for n, pads, k, d in zip(size, padding, kernel, dilation, strict=True)))
    assume(batch == 64 or batch * np.prod(size) * np.prod(kernel) * channels * filters * groups < 2e6)  # the twin is slow
    rng = np.random.default_rng(seed)
    layer = built(cx.Conv2D(filters * groups, kernel, strides, padding, dilation, groups, flip_kernel=flip),
                  channels * groups)
    src = drawn(rng, batch, *size, channels * groups)
    diff_dst = drawn(rng, *layer.infer_shapes(src.shape)[0])
    shape = layer.weights["weights"].data.shape
    expected = exact_gradient(src, diff_dst, shape, strides=strides, padding=padding, dilation=dilation, groups=groups)
    with pixels_chosen():
        assert Plan(gradient_graph(layer, src.shape), level).steps[0].kernel == PIXELS
        one, *many = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n).diff_weights["weights"]
                      for n in (1, threads))
    pixels = diff_dst.size / diff_dst.shape[3]
    close(one, reference.flip_kernel(expected) if flip else expected, 4e-6, max(pixels**0.5, largest(expected)))
    for other in many:
        np.testing.assert_array_equal(one, other)


@BY_LEVEL
@pytest.mark.parametrize("size, channels, filters",
                         [((3, 5000), 1, 1), ((120, 300), 2, 3), ((40, 30), 70, 5), ((30, 40), 5, 70)])
def test_many_blocks(level, size, channels, filters):
    """Rows and columns of several blocks, the last of them smaller; more filters than a block has."""
    rng = np.random.default_rng(0)
    layer = built(cx.Conv2D(filters, 3, padding="same"), channels)
    src = drawn(rng, 2, *size, channels)
    diff_dst = drawn(rng, 2, *size, filters)
    expected = exact_gradient(src, diff_dst, (3, 3, channels, filters), padding=((1, 1), (1, 1)))
    with pixels_chosen():
        one, many = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n).diff_weights["weights"] for n in (1, 3))
    close(one, expected, 4e-6, (2 * size[0] * size[1]) ** 0.5)
    np.testing.assert_array_equal(one, many)


@BY_LEVEL
def test_sums_are_short(level):
    """A quarter of a million equal terms: one sum would be off by 3e-3."""
    layer = built(cx.Conv2D(1, 1), 1)
    src, diff_dst = np.full((1, 512, 512, 1), 0.1, np.float32), np.full((1, 512, 512, 1), 0.3, np.float32)
    with pixels_chosen():
        actual = run_layer(layer, [src], [diff_dst], level=level).diff_weights["weights"]
    exact = 512 * 512 * float(np.float32(0.1)) * float(np.float32(0.3))
    assert abs(actual.item() - exact) < 2e-5 * exact


@BY_LEVEL
def test_views(level):
    """A source that is a crop of another value, a gradient that is a part of that of a concat."""
    rng = np.random.default_rng(0)
    layer = built(cx.Conv2D(5, 3, padding=((1, 0), (0, 1))), 3)
    x = Value((2, 13, 21, 3), name="x")
    inner = cx.Crop2D(((1, 2), (2, 0)))(x)
    y = cx.Concat()([cx.Crop2D(((0, 1), (1, 0)))(inner), layer(inner)])
    graph = prepare(Graph([x], [y], ancestors([y])), [x.shape], training=True)
    diff = Value(graph.outputs[0].shape, name="diff")
    weights = [node.weights["weights"] for node in graph.nodes if node.layer is layer]
    graph.outputs = list(add_gradients(graph, graph.outputs, weights, [diff]).values())
    graph.inputs.append(diff)
    graph.order()
    src, diff_dst = drawn(rng, *x.shape), drawn(rng, *diff.shape)
    expected = exact_gradient(src[:, 1:-2, 2:], diff_dst[..., 3:], (3, 3, 3, 5), padding=((1, 0), (0, 1)))
    with pixels_chosen():
        close(run_graph(optimize(graph), [src, diff_dst], level=level, n_threads=2)[0], expected)


@pytest.mark.skipif("avx512" not in LEVELS, reason="what is chosen there")
@pytest.mark.parametrize("layer, shape, kernel", [
    (cx.Conv2D(6, 5, padding="same"), (64, 28, 28, 1), PIXELS),
    (cx.Conv2D(4, 3, padding="same"), (8, 64, 64, 4), PIXELS),
    (cx.Conv2D(1, 1), (2, 112, 112, 32), PIXELS),
    (cx.Conv2D(16, 5), (64, 14, 14, 6), DIRECT),
    (cx.Conv2D(64, 3, padding="same"), (64, 32, 32, 3), DIRECT),
    (cx.Conv2D(32, 3, strides=2, padding="same"), (64, 32, 32, 3), DIRECT),
    (cx.Conv2D(32, 3), (64, 28, 28, 1), DIRECT),
])
def test_choice(layer, shape, kernel):
    assert kernel in {step.kernel for step in Plan(gradient_graph(layer, shape), "avx512").steps}
