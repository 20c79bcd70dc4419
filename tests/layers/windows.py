"""What the tests of window layers share: drawn windows, and a layer against its twin on one thread and on several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from cnnext.layers.layer import Layer
from cnnext.testing import run_layer
from tests.layers.agreement import LEVELS

SIZES = st.sampled_from([1, 2, 5, 7, 13, 17])
LONG_SIZES = st.sampled_from([1, 2, 7, 13, 17, 40, 127])
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 13, 16, 17, 33, 65, 130])


@dataclass(frozen=True)
class Case:
    """A window, its source, and how to run it."""

    src_shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    rng: np.random.Generator
    level: str
    threads: int

    @property
    def window(self) -> dict:
        """The keywords that the twins take."""
        return dict(kernel=self.kernel, strides=self.strides, padding=self.padding, dilation=self.dilation)

    def source(self, with_ties: bool = False) -> np.ndarray:
        """Random values; with ties, few different ones, zero among them."""
        src = self.rng.standard_normal(self.src_shape)
        return (np.round(src) if with_ties else src).astype(np.float32)


@st.composite
def cases(draw, heights=SIZES, widths=LONG_SIZES, channels=CHANNELS, inside=False, dilations=3, strides=4):
    """A window that fits; ``inside``: padding smaller than the window's extent."""
    shape = (draw(st.integers(1, 3)), draw(heights), draw(widths), draw(channels))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    step = draw(st.tuples(st.integers(1, strides), st.integers(1, strides)))
    dilation = draw(st.tuples(st.integers(1, dilations), st.integers(1, dilations)))
    padding = []
    for size, k, d in zip(shape[1:3], kernel, dilation, strict=True):
        extent = (k - 1) * d + 1
        most = st.integers(0, extent - 1 if inside else 3)
        padding.append((draw(most), draw(most)))
        assume(size + sum(padding[-1]) >= extent)
    assume(np.prod(shape) * np.prod(kernel) < 2e6)  # the twins are slow
    return Case(shape, kernel, step, tuple(padding), dilation, np.random.default_rng(draw(st.integers(0, 2**32))),
                draw(st.sampled_from(LEVELS)), draw(st.integers(2, 4)))


def check(layer: Layer, src: np.ndarray, case: Case, expected: Callable[[np.ndarray], Sequence[np.ndarray]],
          tolerance: float = 1e-5) -> None:
    """Compare with ``expected(diff_dst)``: dst, diff_src, then gradients of weights; the same bits on all threads."""
    diff_dst = case.rng.standard_normal(layer.infer_shapes(src.shape)[0]).astype(np.float32)
    one, many = (run_layer(layer, [src], [diff_dst], level=case.level, n_threads=n) for n in (1, case.threads))
    actual = [one.outputs[0], one.diff_inputs[0], *one.diff_weights.values()]
    for i, (got, exact) in enumerate(zip(actual, expected(diff_dst.astype(np.float64)), strict=True)):
        agree(got, exact, tolerance if i < 2 else 1e-4)  # gradients of weights are sums over all pixels
    for a, b in zip(actual, [many.outputs[0], many.diff_inputs[0], *many.diff_weights.values()], strict=True):
        np.testing.assert_array_equal(a, b)


def agree(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the largest magnitude, or of 1: the terms of all sums here are about 1, and so is what
    they are rounded to, even where they cancel."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(initial=0), 1))


def random_weights(layer: Layer, shape: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Build the layer with random weights, biases too, and return them in float64."""
    layer.build(shape)
    for parameter in layer.weights.values():
        parameter.assign(rng.standard_normal(parameter.data.shape))
    return [p.data.astype(np.float64) for p in layer.weights.values()]


class Between(Layer):
    """A layer between two pools of one pixel: its source and its result are then no dense arrays for 256 channels."""

    def __init__(self, inner: Layer):
        super().__init__(name=f"between/{inner.name}")
        self.inner = inner

    def parameters(self, *shapes):
        return self.inner.parameters(*shapes)

    def output_shape(self, *shapes):
        return self.inner.output_shape(*shapes)

    def compose(self, g, *x, weights):
        from cnnext.layers.pooling import MaxPool2D

        before = g.apply1(MaxPool2D(1, name="before"), *x)
        return g.apply1(MaxPool2D(1, name="after"), g.apply1(self.inner, before, weights=weights))
