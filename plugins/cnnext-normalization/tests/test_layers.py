"""Every normalization against its twin in float64: forward, backward, all levels, threads bit-equal."""

from __future__ import annotations

import numpy as np
import pytest
import twins
from cnnext_normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, LocalResponseNorm, RMSNorm
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext._native import executor
from cnnext.graph.graph import INT64, Value
from cnnext.testing import run_layer

LEVELS = executor.levels()
EXTENT = st.sampled_from([1, 2, 3, 7, 13, 17])
CHANNELS = st.sampled_from([1, 2, 3, 7, 13, 16, 17, 33, 127, 256])
SEED = st.integers(0, 2**32)


def close(actual, expected, tolerance=1e-5, scale=None):
    scale = scale or np.abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def twin(layer, src, gamma, beta, diff_dst):
    """Output, diff_src, diff_gamma, diff_beta in float64, and the scale of diff_src."""
    if isinstance(layer, (GroupNorm, InstanceNorm)):
        groups = layer.groups if isinstance(layer, GroupNorm) else src.shape[-1]
        parts = [twins.grouped(np.broadcast_to(a, src.shape), groups) for a in (src, gamma, beta, diff_dst)]
        out = twins.normalize(*parts[:3], (1, 3), layer.epsilon)
        diff = twins.normalize_backward(parts[0], parts[1], parts[3], (1, 3), layer.epsilon)[0]
        z = twins.normalize(parts[0], 1.0, 0.0, (1, 3), layer.epsilon).reshape(src.shape)
        pixels = tuple(range(src.ndim - 1))
        return (out.reshape(src.shape), diff.reshape(src.shape), (diff_dst * z).sum(pixels), diff_dst.sum(pixels),
                twins.largest_term(parts[0], parts[1], parts[3], (1, 3), layer.epsilon))
    axes = tuple(range(src.ndim - 1)) if isinstance(layer, BatchNorm) else -1
    centered = not isinstance(layer, RMSNorm)
    return (twins.normalize(src, gamma, beta, axes, layer.epsilon, centered),
            *twins.normalize_backward(src, gamma, diff_dst, axes, layer.epsilon, centered),
            twins.largest_term(src, gamma, diff_dst, axes, layer.epsilon, centered))


def check(layer, src, level, threads, seed, tolerance=1e-5):
    rng = np.random.default_rng(seed)
    channels = src.shape[-1]
    diff_dst = rng.standard_normal(src.shape).astype(np.float32)
    gamma, beta = rng.uniform(0.5, 2, channels).astype(np.float32), rng.standard_normal(channels).astype(np.float32)
    first = layer.data_format == "channels_first"
    feeds = [np.moveaxis(a, -1, 1) if first else a for a in (src, diff_dst)]
    layer.build(feeds[0].shape)
    for key, array in (("gamma", gamma), ("beta", beta)):
        if key in layer.weights:
            layer.weights[key].assign(array)
    one, many = (run_layer(layer, feeds[:1], feeds[1:], level=level, n_threads=n, training=True) for n in (1, threads))
    given_gamma = gamma if "gamma" in layer.weights else np.ones(channels)
    given_beta = beta if "beta" in layer.weights else np.zeros(channels)
    exact = (np.asarray(a, np.float64) for a in (src, given_gamma, given_beta, diff_dst))
    out, diff, diff_gamma, diff_beta, diff_scale = twin(layer, *exact)
    back = (lambda a: np.moveaxis(a, 1, -1)) if first else (lambda a: a)
    close(back(one.outputs[0]), out, tolerance)
    close(back(one.diff_inputs[0]), diff, tolerance, diff_scale)
    scale = max(np.abs(diff_gamma).max(), np.abs(diff_beta).max(), 1.0)
    for key, expected in (("gamma", diff_gamma), ("beta", diff_beta)):
        assert (key in one.diff_weights) == (key in layer.weights)
        if key in layer.weights:
            close(one.diff_weights[key], expected, tolerance, scale)
            np.testing.assert_array_equal(one.diff_weights[key], many.diff_weights[key])
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])


@st.composite
def layers(draw):
    """A layer and the channels of its source."""
    channels = draw(CHANNELS)
    options = {"data_format": draw(st.sampled_from(["channels_last", "channels_first"])), "scale": draw(st.booleans()),
               "epsilon": draw(st.sampled_from([1e-5, 1e-3]))}
    kind = draw(st.sampled_from([BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm]))
    if kind is not RMSNorm:
        options["center"] = draw(st.booleans())
    if kind is GroupNorm:
        options["groups"] = draw(st.sampled_from([g for g in (1, 2, 4, 13, channels) if channels % g == 0]))
    return kind(**options), channels


@given(pair=layers(), batch=st.integers(1, 3), spatial=st.lists(EXTENT, min_size=1, max_size=2),
       level=st.sampled_from(LEVELS), threads=st.integers(2, 4), seed=SEED)
@settings(max_examples=150)
def test_twin(pair, batch, spatial, level, threads, seed):
    layer, channels = pair
    src = np.random.default_rng(seed).standard_normal((batch, *spatial, channels)).astype(np.float32)
    check(layer, src, level, threads, seed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", [BatchNorm, lambda: GroupNorm(4), InstanceNorm, LayerNorm, RMSNorm])
def test_many_tiles_and_shards(make, level):
    src = np.random.default_rng(0).standard_normal((3, 61, 47, 16)).astype(np.float32)
    check(make(), src, level, 3, 1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", [BatchNorm, lambda: GroupNorm(4), InstanceNorm, LayerNorm])
@pytest.mark.parametrize("mean", [1e3, 1e5, 1e6])
def test_statistics_are_stable_for_large_means(make, mean, level):
    # a naive sum of squares has lost the variance altogether at a mean of 1e5: 1e10 +- 1 in 24 bits; at 1e6 the mean
    # itself, rounded to a float, is off by up to 3 % of the standard deviation
    src = (np.random.default_rng(0).standard_normal((4, 19, 17, 32)) + mean).astype(np.float32)
    check(make(), src, level, 2, 1, tolerance=3e-5)


@given(size=st.integers(1, 9), alpha=st.sampled_from([0.0, 1e-4, 0.5]), beta=st.sampled_from([0.0, 0.5, 0.75, 1.3]),
       bias=st.sampled_from([0.5, 1.0, 2.0]), batch=st.integers(1, 3), spatial=st.lists(EXTENT, max_size=2),
       channels=CHANNELS, level=st.sampled_from(LEVELS), threads=st.integers(2, 4), seed=SEED)
@settings(max_examples=100)
def test_local_response_norm(size, alpha, beta, bias, batch, spatial, channels, level, threads, seed):
    rng = np.random.default_rng(seed)
    src, diff_dst = (rng.standard_normal((batch, *spatial, channels)).astype(np.float32) for _ in range(2))
    layer = LocalResponseNorm(size, alpha, beta, bias)
    one, many = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n) for n in (1, threads))
    exact = [a.astype(np.float64) for a in (src, diff_dst)]
    close(one.outputs[0], twins.response(exact[0], size, alpha, beta, bias))
    close(one.diff_inputs[0], twins.response_backward(*exact, size, alpha, beta, bias))
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])


def test_the_gradients_are_those_of_the_twins_by_differences():
    # the twins' own backward rules, against central differences of their forward rules
    rng = np.random.default_rng(3)
    src, diff_dst, gamma, beta = (rng.standard_normal(s) for s in ((3, 5, 4), (3, 5, 4), 4, 4))
    rules = [
        (lambda x: twins.normalize(x, gamma, beta, (0, 1), 1e-3),
         twins.normalize_backward(src, gamma, diff_dst, (0, 1), 1e-3)[0]),
        (lambda x: twins.normalize(x, gamma, beta, -1, 1e-3, False),
         twins.normalize_backward(src, gamma, diff_dst, -1, 1e-3, False)[0]),
        (lambda x: twins.response(x, 4, 0.5, 0.75, 1.0), twins.response_backward(src, diff_dst, 4, 0.5, 0.75, 1.0)),
    ]
    for forward, backward in rules:
        for i in range(0, src.size, 7):
            step = np.zeros(src.size)
            step[i] = 1e-6
            step = step.reshape(src.shape)
            slope = ((forward(src + step) - forward(src - step)) * diff_dst).sum() / 2e-6
            assert backward.ravel()[i] == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kind", [BatchNorm, lambda **k: GroupNorm(1, **k), InstanceNorm, LayerNorm, RMSNorm])
def test_nan_is_not_hidden(kind):
    src = np.ones((2, 3, 4, 5), np.float32)
    src[0, 0, 0, 0] = np.nan
    assert np.isnan(run_layer(kind(), [src], training=True).outputs[0][0, 0, 0, 0])


@pytest.mark.parametrize("layer", [BatchNorm(), GroupNorm(1), InstanceNorm(), LayerNorm(), RMSNorm(),
                                   LocalResponseNorm(5)])
def test_shapes_and_config(layer):
    assert layer(Value((None, 8, None, 3))).shape == (None, 8, None, 3)
    assert type(layer)(**layer.config()).config() == layer.config()
    assert layer.type_name == f"normalization/{type(layer).__name__}@1"


@pytest.mark.parametrize(("make", "shape", "error"), [
    (lambda: BatchNorm(name="b"), (4,), r"batchnorm 'b': `src` must have rank 2 at least, \(N, \.\.\., C\)"),
    (lambda: LayerNorm(name="b"), (4, 5, None), r"layernorm 'b': `src` must have a known number of channels\. Received"),
    (lambda: InstanceNorm(name="b"), (4, 5), r"instancenorm 'b': `src` must have rank 3 at least"),
    (lambda: GroupNorm(3, name="b"), (2, 4, 4, 8),
     r"groupnorm 'b': `groups` must divide the channels of the source\. Received groups=3 \(source shape \(2, 4, 4, 8\)\)"),
    (lambda: BatchNorm(momentum=1.5), (1, 2), r"`momentum` must be .* 1.*Received momentum=1\.5"),
    (lambda: RMSNorm(epsilon=0), (1, 2), r"`epsilon` must be .*Received epsilon=0"),
    (lambda: LocalResponseNorm(0), (1, 2), r"`size` must be .*Received size=0"),
    (lambda: LocalResponseNorm(3, bias=0), (1, 2), r"`bias` must be .*Received bias=0"),
])
def test_bad_arguments(make, shape, error):
    with pytest.raises(ValueError, match=error):
        make()(Value(shape))


def test_bad_dtype():
    with pytest.raises(TypeError, match=r"batchnorm 'b': `src` must be float32\. Received src='int64'"):
        BatchNorm(name="b")(Value((1, 2), INT64))


def test_a_concatenation_is_normalized_in_place():
    # strided sources and results: both ends lie inside wider values
    rng = np.random.default_rng(0)
    x = cx.Input((6, 5, 3))
    parts = [cx.Conv2D(n, 1)(x) for n in (5, 8)]
    normed = [kind(name=f"n{i}")(v) for i, (kind, v) in enumerate(zip((LayerNorm, InstanceNorm), parts, strict=True))]
    net = cx.Model(x, cx.Concat()([*normed, *parts]))
    src = rng.standard_normal((2, 6, 5, 3)).astype(np.float32)
    out = net.predict(src)
    close(out[..., :5], twins.normalize(out[..., 13:18].astype(np.float64), 1.0, 0.0, -1, 1e-3))
    close(out[..., 5:13], twins.normalize(out[..., 18:].astype(np.float64), 1.0, 0.0, (1, 2), 1e-3))


@pytest.mark.parametrize("make", [BatchNorm, LayerNorm, GroupNorm, InstanceNorm, RMSNorm])
def test_how_gamma_and_beta_begin_and_what_holds_them_small(make):
    more = {} if make is RMSNorm else {"beta_initializer": cx.Constant(0.5), "beta_regularizer": cx.L1(2.0)}
    more |= {"groups": 2} if make is GroupNorm else {}
    layer = make(gamma_initializer="zeros", gamma_regularizer="l2", **more)
    net = cx.Sequential([layer], input_shape=(4, 4, 6))
    trained = {p.name.rpartition("/")[2]: p for p in net.trainable_parameters}
    assert (trained["gamma"].data == 0).all() and trained["gamma"].regularizer == cx.L2(0.01)
    assert make is RMSNorm or (trained["beta"].data == 0.5).all()
    net.compile(cx.SGD(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 6))
    assert net.evaluate(x, net.predict(x))["loss"] == pytest.approx(0 if make is RMSNorm else 2 * 6 * 0.5, abs=1e-6)
