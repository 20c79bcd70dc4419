"""Dropout: its mask against the generator written in NumPy, its statistics, and both modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext.graph.graph import INT64, Value
from cnnext.layers.dropout import Dropout, DropoutMask, SpatialDropout2D
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, close
from tests.layers.padded import BetweenTanh, check_padded

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
RATES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])
SEEDS = st.integers(-(2**63), 2**63 - 1)


def mix(z):
    """The finalizer of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def kept(seed, stream, rate, shape):
    """Which elements a run with this seed keeps."""
    with np.errstate(over="ignore"):
        key = mix(np.array([seed], np.int64).view(np.uint64) + GOLDEN * mix(np.array([stream], np.uint64)))
        numbers = mix(key + GOLDEN * np.arange(1, np.prod(shape) + 1, dtype=np.uint64))
    return (numbers >> np.uint64(32)).reshape(shape) >= int(rate * 2**32)


def run_mask(rate, stream, src, seed, diff_dst=None, **kwargs):
    layer = DropoutMask(rate, stream, "dropout")
    return run_layer(layer, [src, np.array([seed], np.int64)], None if diff_dst is None else [diff_dst], **kwargs)


def check(rate, stream, seed, shape, level, threads):
    rng = np.random.default_rng(0)
    src, diff_dst = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    mask = kept(seed, stream, rate, shape)
    one, many = (run_mask(rate, stream, src, seed, diff_dst, level=level, n_threads=n) for n in (1, threads))
    close(one.outputs[0], reference.dropout(src.astype(np.float64), mask, rate))
    close(one.diff_inputs[0], reference.dropout_backward(diff_dst.astype(np.float64), mask, rate))
    assert one.diff_inputs[1] is None
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])


@given(rate=RATES, stream=st.integers(1, 5), seed=SEEDS, batch=BATCH, spatial=st.lists(EXTENT, max_size=2),
       channels=st.sampled_from([1, 3, 7, 13, 16, 17, 127]), level=st.sampled_from(LEVELS), threads=st.integers(2, 4))
@settings(max_examples=200)
def test_mask_and_gradient(rate, stream, seed, batch, spatial, channels, level, threads):
    check(rate, stream, seed, (batch, *spatial, channels), level, threads)


@pytest.mark.parametrize("shape", [(2, 43, 127, 13), (1, 70000), (70000, 1)])
def test_many_tiles(shape):
    check(0.3, 2, 1234567, shape, LEVELS[-1], 3)


@pytest.mark.parametrize("level", LEVELS)
def test_padded(level):
    check_padded(Dropout(0.5), level)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5, 0.9])
def test_share_and_mean(rate):
    n = 2**18
    dst = run_mask(rate, 1, np.ones((1, n), np.float32), 42).outputs[0]
    six_sigma = 6 * np.sqrt(rate * (1 - rate) / n)
    assert abs((dst == 0).mean() - rate) < six_sigma
    assert abs(dst.mean(dtype=np.float64) - 1) < six_sigma / (1 - rate)


def test_neighbours_seeds_and_streams_are_independent():
    n = 2**18
    src = np.ones((1, n), np.float32)
    base = run_mask(0.5, 1, src, 0).outputs[0][0] - 1
    keys = [(1, 1), (1, 2**32), (2, 0), (2, 1)]
    others = [run_mask(0.5, stream, src, seed).outputs[0][0] - 1 for stream, seed in keys]
    others += [np.roll(base, shift) for shift in (1, 2, 16, 1000)]
    for other in others:
        assert abs((base * other).mean(dtype=np.float64)) < 6 / np.sqrt(n)


def test_each_dropout_of_a_graph_has_its_own_mask():
    src = np.full((1, 4096), 0.5, np.float32)
    once = run_layer(Dropout(0.5), [src], training=True).outputs[0]
    twice = run_layer(BetweenTanh(_Twice()), [src], training=True).outputs[0]
    assert 0.45 < (once != 0).mean() < 0.55
    assert 0.2 < (twice != 0).mean() < 0.3


class _Twice(Dropout):
    """One dropout after the other."""

    def __init__(self):
        super().__init__(0.5)

    def compose(self, g, *x, weights):
        return g.apply1(Dropout(0.5), g.apply1(Dropout(0.5), *x))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_dropped_is_zero_whatever_it_was(value):
    dst = run_mask(0.5, 1, np.full((1, 1000), value, np.float32), 3).outputs[0]
    np.testing.assert_array_equal(dst == 0, ~kept(3, 1, 0.5, (1, 1000)))


def test_inference_and_rate_zero_change_nothing():
    src = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(run_layer(Dropout(0.5), [src]).outputs[0], src)
    run = run_layer(Dropout(0), [src], [src], training=True)
    np.testing.assert_array_equal(run.outputs[0], src)
    np.testing.assert_array_equal(run.diff_inputs[0], src)


def test_gradient_passes_where_the_value_did():
    src = np.ones((3, 7, 11), np.float32)
    run = run_layer(Dropout(0.4), [src], [src], training=True)
    np.testing.assert_array_equal(run.outputs[0], run.diff_inputs[0])
    assert 0 < (run.outputs[0] == 0).mean() < 1


@pytest.mark.parametrize(("rate", "error"), [
    (1.0, r"dropout 'd': `rate` must be less than 1\. Received rate=1\.0"),
    (-0.1, r"dropout 'd': `rate` must be at least 0\. Received rate=-0\.1"),
    (float("nan"), r"dropout 'd': `rate` must be a finite number\. Received rate=nan"),
    ("half", r"dropout 'd': `rate` must be a number\. Received rate='half'"),
])
def test_bad_rates(rate, error):
    with pytest.raises(ValueError, match=error):
        Dropout(rate, name="d")


def test_bad_dtypes():
    with pytest.raises(TypeError, match=r"dropout 'd': `src` must be float32\. Received src='int64'"):
        Dropout(0.5, name="d")(Value((1, 2), INT64))
    with pytest.raises(TypeError, match=r"dropoutmask 'd': `seed` must be int64\. Received seed='float32'"):
        DropoutMask(0.5, 1, "d")([Value((1, 2)), Value((1,))])


def test_shapes():
    assert Dropout(0.5)(Value((None, 8, None, 3))).shape == (None, 8, None, 3)


# Whole channels


def factors(layer, shape, seed=0, **kwargs):
    """By what each channel of each image is multiplied, (N, C), one run; all pixels of it are."""
    src = np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)
    run = run_layer(layer, [src], [src], training=True, **kwargs)
    first = layer.data_format == "channels_first"
    dst, diff, x = (np.moveaxis(a, 1, -1) if first else a for a in (run.outputs[0], run.diff_inputs[0], src))
    np.testing.assert_array_equal(diff, dst)        # of the gradient src, through the same mask
    table = np.float32(1) / np.float32(1 - layer.rate) * (dst[:, :1, :1] != 0)
    np.testing.assert_allclose(dst, x * table, rtol=1e-6)
    return table[:, 0, 0]


@given(rate=RATES, batch=BATCH, rows=EXTENT, columns=EXTENT, channels=st.sampled_from([1, 3, 7, 16, 17, 127]),
       data_format=st.sampled_from(["channels_last", "channels_first"]), level=st.sampled_from(LEVELS),
       threads=st.integers(2, 4))
@settings(max_examples=80, deadline=None)
def test_one_mask_for_all_pixels(rate, batch, rows, columns, channels, data_format, level, threads):
    layer = SpatialDropout2D(rate, data_format)
    shape = (batch, channels, rows, columns) if data_format == "channels_first" else (batch, rows, columns, channels)
    one, many = (factors(layer, shape, level=level, n_threads=n) for n in (1, threads))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_and_mean_of_channels(rate):
    table = factors(SpatialDropout2D(rate), (128, 2, 2, 512))
    n = table.size
    six_sigma = 6 * np.sqrt(rate * (1 - rate) / n)
    assert abs((table == 0).mean() - rate) < six_sigma
    assert abs(table.mean(dtype=np.float64) - 1) < six_sigma / (1 - rate)
    # images and channels are independent of each other
    signs = (table != 0) - (1 - rate)
    for axis in (0, 1):
        moved = np.roll(signs, 1, axis)
        assert abs((signs * moved).mean()) < 6 * rate * (1 - rate) / np.sqrt(n)


def test_the_next_step_drops_other_channels():
    net = cx.Sequential([SpatialDropout2D(0.5), cx.GlobalAvgPool2D()], input_shape=(2, 2, 64))
    x = cx.Model(net.inputs, cx.Dense(1, use_bias=False, kernel_initializer="ones")(net.outputs[0]))
    x.compile(cx.SGD(1e-12), "mse")
    cx.set_random_seed(0)
    losses = {x.train_on_batch(np.ones((4, 2, 2, 64)), np.zeros((4, 1)))["loss"] for _ in range(5)}
    assert len(losses) == 5


@pytest.mark.parametrize("level", LEVELS)
def test_channels_padded(level):
    check_padded(SpatialDropout2D(0.5), level)


def test_channels_in_inference_and_of_other_ranks():
    src = np.random.default_rng(0).standard_normal((2, 5, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(run_layer(SpatialDropout2D(0.5), [src]).outputs[0], src)
    rule = r"spatialdropout2d 'd': `src` must have rank 4, \(N, H, W, C\)\. Received src=\(None, 8\)"
    with pytest.raises(ValueError, match=rule):
        SpatialDropout2D(0.5, name="d")(cx.Input((8,)))
