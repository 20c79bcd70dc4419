"""Convolutions and dense layers against their twins in float64, forward and backward, all levels, threads bit-equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.layers.conv2d import Conv1D, Conv2D
from cnnext.layers.conv2d_transpose import Conv2DTranspose
from cnnext.layers.dense import Dense
from cnnext.testing import run_layer
from tests.layers.agreement import LEVELS, close, largest

EXTENTS = st.sampled_from([1, 2, 5, 7, 13, 17])
LONG_EXTENTS = st.sampled_from([1, 7, 13, 17, 40, 127])
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 13, 16, 17, 33, 65])
PADS = st.integers(0, 3)
PAD_PAIRS = st.tuples(st.tuples(PADS, PADS), st.tuples(PADS, PADS))
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Case:
    """A convolution and its source."""

    src_shape: tuple[int, int, int, int]
    filters: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    seed: int
    level: str
    threads: int


@st.composite
def cases(draw, heights=EXTENTS, widths=LONG_EXTENTS, transposed=False):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, filters = draw(CHANNELS) * groups, draw(CHANNELS) * groups
    shape = (draw(st.integers(1, 3)), draw(heights), draw(widths), channels)
    kernel, strides, dilation = (draw(st.tuples(st.integers(1, n), st.integers(1, n))) for n in (5, 3, 2))
    padding = draw(PAD_PAIRS)
    for size, (before, after), k, d in zip(shape[1:3], padding, kernel, dilation, strict=True):
        assume(transposed or size + before + after >= (k - 1) * d + 1)
    assume(np.prod(shape) * filters * np.prod(kernel) < 3e7)  # the twins are slow
    return Case(shape, filters, kernel, strides, padding, dilation, groups, draw(SEEDS), draw(st.sampled_from(LEVELS)),
                draw(st.integers(2, 4)))


def random_bias(layer, rng):
    layer.weights["bias"].assign(rng.standard_normal(layer.weights["bias"].data.shape))
    return [p.data.astype(np.float64) for p in layer.weights.values()]


def check(layer, src, expected_shape, case, expected):
    """Run forward and backward on one thread and on several; compare all with ``expected(diff_dst)``."""
    rng = np.random.default_rng(case.seed + 1)
    diff_dst = rng.standard_normal(expected_shape).astype(np.float32)
    one, many = (run_layer(layer, [src], [diff_dst], level=case.level, n_threads=n) for n in (1, case.threads))
    dst, diff_src, diff_weights, diff_bias = expected(diff_dst.astype(np.float64))
    # Sums of n terms of order 1 may cancel almost to nothing; they round like their usual size, sqrt(n).
    usual = float(max(diff_dst.size // diff_dst.shape[-1], src.size // src.shape[-1])) ** 0.5
    close(one.outputs[0], dst, scale=max(1.0, largest(dst)))
    close(one.diff_inputs[0], diff_src, scale=max(largest(layer.weights["weights"].data), largest(diff_src)))
    close(one.diff_weights["weights"], diff_weights, scale=max(usual, largest(diff_weights)))
    close(one.diff_weights["bias"], diff_bias, scale=max(usual, largest(diff_bias)))
    for a, b in zip([one.outputs[0], one.diff_inputs[0], *one.diff_weights.values()],
                    [many.outputs[0], many.diff_inputs[0], *many.diff_weights.values()], strict=True):
        np.testing.assert_array_equal(a, b)


@given(case=cases(), flip=st.booleans())
@settings(max_examples=400)
def test_conv2d(case, flip):
    rng = np.random.default_rng(case.seed)
    src = rng.standard_normal(case.src_shape).astype(np.float32)
    layer = Conv2D(case.filters, case.kernel, case.strides, case.padding, case.dilation, case.groups, flip_kernel=flip)
    layer.build(case.src_shape)
    weights, bias = random_bias(layer, rng)
    used = reference.flip_kernel(weights) if flip else weights
    kwargs = dict(strides=case.strides, padding=case.padding, dilation=case.dilation, groups=case.groups)
    exact = src.astype(np.float64)

    def expected(diff_dst):
        diff_weights = reference.conv2d_backward_weights(exact, diff_dst, weights.shape, **kwargs)
        return (reference.conv2d(exact, used, bias, **kwargs),
                reference.conv2d_backward_data(diff_dst, used, src.shape, **kwargs),
                reference.flip_kernel(diff_weights) if flip else diff_weights,
                reference.conv2d_backward_bias(diff_dst))

    check(layer, src, layer.infer_shapes(src.shape)[0], case, expected)


@given(case=cases(heights=st.just(1)))
@settings(max_examples=60)
def test_conv1d_is_conv2d_on_one_row(case):
    rng = np.random.default_rng(case.seed)
    before, after = case.padding[1]
    length, kernel, stride, dilation = case.src_shape[2], case.kernel[1], case.strides[1], case.dilation[1]
    assume(length + before + after >= (kernel - 1) * dilation + 1)
    src = rng.standard_normal((case.src_shape[0], length, case.src_shape[3])).astype(np.float32)
    layer = Conv1D(case.filters, kernel, stride, (before, after), dilation, case.groups)
    layer.build(src.shape)
    weights, bias = random_bias(layer, rng)
    kwargs = dict(strides=(1, stride), padding=((0, 0), (before, after)), dilation=(1, dilation), groups=case.groups)
    exact, square = src.astype(np.float64)[:, None], weights[None]

    def expected(diff_dst):
        diff = diff_dst[:, None]
        return (reference.conv2d(exact, square, bias, **kwargs)[:, 0],
                reference.conv2d_backward_data(diff, square, exact.shape, **kwargs)[:, 0],
                reference.conv2d_backward_weights(exact, diff, square.shape, **kwargs)[0],
                reference.conv2d_backward_bias(diff))

    check(layer, src, layer.infer_shapes(src.shape)[0], case, expected)


@given(case=cases(heights=st.just(1)))
@settings(max_examples=60)
def test_a_column_has_the_bits_of_the_row(case):
    """Images of one column are computed as rows: forward, backward, whatever the window."""
    rng = np.random.default_rng(case.seed)
    src = rng.standard_normal(case.src_shape).astype(np.float32)
    window = ((1, case.kernel[1]), (1, case.strides[1]), ((0, 0), case.padding[1]), (1, case.dilation[1]))
    row = Conv2D(case.filters, *window, case.groups)
    column = Conv2D(case.filters, *(pair[::-1] for pair in window), case.groups)
    row.build(src.shape)
    column.build(src.swapaxes(1, 2).shape)
    weights = row.weights["weights"].data
    column.weights["weights"].assign(weights.swapaxes(0, 1))
    diff_dst = rng.standard_normal(row.infer_shapes(src.shape)[0]).astype(np.float32)
    runs = [run_layer(layer, [x], [dy], level=case.level, n_threads=case.threads) for layer, x, dy in (
        (row, src, diff_dst), (column, src.swapaxes(1, 2), diff_dst.swapaxes(1, 2)))]
    for a, b, axis in ((runs[0].outputs[0], runs[1].outputs[0], 1),
                       (runs[0].diff_inputs[0], runs[1].diff_inputs[0], 1),
                       (runs[0].diff_weights["weights"], runs[1].diff_weights["weights"], 0)):
        np.testing.assert_array_equal(a, b.swapaxes(axis, axis + 1))


@given(case=cases(heights=st.sampled_from([1, 2, 5, 7]), widths=st.sampled_from([1, 2, 5, 7, 13]), transposed=True))
@settings(max_examples=200)
def test_conv2d_transpose(case):
    rng = np.random.default_rng(case.seed)
    src = rng.standard_normal(case.src_shape).astype(np.float32)
    extra = tuple(int(rng.integers(0, s)) for s in case.strides)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(case.src_shape[1:3], case.strides, case.kernel,
                                                                case.dilation, strict=True)]
    assume(all(f - sum(p) + e >= 1 for f, p, e in zip(full, case.padding, extra, strict=True)))
    layer = Conv2DTranspose(case.filters, case.kernel, case.strides, case.padding, case.dilation, extra, case.groups)
    layer.build(case.src_shape)
    weights, bias = random_bias(layer, rng)
    kwargs = dict(strides=case.strides, padding=case.padding, dilation=case.dilation, groups=case.groups)
    exact = src.astype(np.float64)

    def expected(diff_dst):
        return (reference.conv2d_transpose(exact, weights, bias, output_padding=extra, **kwargs),
                reference.conv2d_transpose_backward_data(diff_dst, weights, src.shape, output_padding=extra, **kwargs),
                reference.conv2d_transpose_backward_weights(exact, diff_dst, weights.shape, output_padding=extra,
                                                            **kwargs),
                reference.conv2d_backward_bias(diff_dst))

    check(layer, src, layer.infer_shapes(src.shape)[0], case, expected)


@given(lead=st.sampled_from([(1,), (3,), (64,), (2, 5), (2, 3, 4)]), features=LONG_EXTENTS, units=CHANNELS, seed=SEEDS,
       level=st.sampled_from(LEVELS), threads=st.integers(2, 4))
@settings(max_examples=100)
def test_dense(lead, features, units, seed, level, threads):
    rng = np.random.default_rng(seed)
    src = rng.standard_normal((*lead, features)).astype(np.float32)
    layer = Dense(units)
    layer.build(src.shape)
    weights, bias = random_bias(layer, rng)
    exact = src.astype(np.float64)
    case = Case((1, 1, 1, 1), units, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, seed, level, threads)

    def expected(diff_dst):
        return (exact @ weights + bias, diff_dst @ weights.T,
                exact.reshape(-1, features).T @ diff_dst.reshape(-1, units), diff_dst.reshape(-1, units).sum(0))

    check(layer, src, (*lead, units), case, expected)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_named_padding_follows_the_rule_of_the_field(padding, size, stride):
    src = np.random.default_rng(0).standard_normal((1, size, size, 2)).astype(np.float32)
    layer = Conv2D(3, 4, stride, padding, use_bias=False)
    layer.build(src.shape)
    out = -(-size // stride) if padding == "same" else (size - 4) // stride + 1
    total = max((out - 1) * stride + 4 - size, 0) if padding == "same" else 0
    pads = (total // 2, total - total // 2)
    weights = layer.weights["weights"].data.astype(np.float64)
    expected = reference.conv2d(src.astype(np.float64), weights, strides=(stride, stride), padding=(pads, pads))
    assert expected.shape == (1, out, out, 3)
    close(run_layer(layer, [src]).outputs[0], expected)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_channels_first_is_the_same_convolution(data_format):
    src = np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32)
    layer = Conv2D(7, 3, padding="same", data_format=data_format)
    feed = src if data_format == "channels_last" else src.transpose(0, 3, 1, 2)
    layer.build(feed.shape)
    got = run_layer(layer, [np.ascontiguousarray(feed)]).outputs[0]
    got = got if data_format == "channels_last" else got.transpose(0, 2, 3, 1)
    weights = layer.weights["weights"].data.astype(np.float64)
    close(got, reference.conv2d(src.astype(np.float64), weights, padding=((1, 1), (1, 1))))
