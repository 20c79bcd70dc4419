"""Pools against their twins in float64, forward and backward, on all levels, bit-equal for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, LpPool2D, MaxPool2D
from cnnext.testing import run_layer
from tests.layers.agreement import LEVELS, close
from tests.layers.windows import CHANNELS, LONG_SIZES, SIZES, Between, cases, check

KINDS = {MaxPool2D: reference.max_pool2d, AvgPool2D: reference.avg_pool2d, LpPool2D: reference.lp_pool2d}
BACKWARD = {MaxPool2D: reference.max_pool2d_backward, AvgPool2D: reference.avg_pool2d_backward,
            LpPool2D: reference.lp_pool2d_backward}


def pool(kind, case, **options):
    try:
        layer = kind(case.kernel, case.strides, case.padding, case.dilation, **options)
        return layer, layer.infer_shapes(case.src_shape)[0]
    except ValueError as error:
        assume("leave every window a pixel" not in str(error))
        raise


def check_pool(kind, case, src, ceil_mode, tolerance=1e-5, **own):
    layer, shape = pool(kind, case, ceil_mode=ceil_mode, **own)
    exact, keywords = src.astype(np.float64), dict(case.window, output_size=shape[1:3], **own)

    def expected(diff_dst):
        return KINDS[kind](exact, **keywords), BACKWARD[kind](exact, diff_dst, **keywords)

    check(layer, src, case, expected, tolerance)


@given(case=cases(inside=True), ceil_mode=st.booleans(), ties=st.booleans())
@settings(max_examples=400)
def test_max(case, ceil_mode, ties):
    check_pool(MaxPool2D, case, case.source(ties), ceil_mode, tolerance=1e-6)


@given(case=cases(inside=True), ceil_mode=st.booleans(), count_include_pad=st.booleans())
@settings(max_examples=400)
def test_avg(case, ceil_mode, count_include_pad):
    check_pool(AvgPool2D, case, case.source(), ceil_mode, count_include_pad=count_include_pad)


@given(case=cases(inside=True), ceil_mode=st.booleans(), ties=st.booleans(), power=st.sampled_from([1, 1.5, 2, 3, 4]))
@settings(max_examples=250)
def test_lp(case, ceil_mode, ties, power):
    check_pool(LpPool2D, case, case.source(ties), ceil_mode, power=float(power))


@given(shape=st.tuples(st.integers(1, 3), SIZES, LONG_SIZES, CHANNELS), keepdims=st.booleans(), ties=st.booleans(),
       maximum=st.booleans(), seed=st.integers(0, 2**32), level=st.sampled_from(LEVELS), threads=st.integers(2, 4))
@settings(max_examples=250)
def test_global(shape, keepdims, ties, maximum, seed, level, threads):
    rng = np.random.default_rng(seed)
    src = rng.standard_normal(shape)
    src = (np.round(src) if ties else src).astype(np.float32)
    layer = GlobalMaxPool2D(keepdims) if maximum else GlobalAvgPool2D(keepdims)
    forward = reference.global_max_pool2d if maximum else reference.global_avg_pool2d
    backward = reference.global_max_pool2d_backward if maximum else reference.global_avg_pool2d_backward
    n, _, _, c = shape
    diff_dst = rng.standard_normal((n, 1, 1, c)).astype(np.float32)
    own = diff_dst if keepdims else diff_dst.reshape(n, c)
    one, many = (run_layer(layer, [src], [own], level=level, n_threads=k) for k in (1, threads))
    close(one.outputs[0], forward(src.astype(np.float64)).reshape(own.shape))
    close(one.diff_inputs[0], backward(src.astype(np.float64), diff_dst.astype(np.float64)))
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])


def test_the_mean_of_a_large_image_keeps_its_digits():
    src = np.random.default_rng(0).uniform(1, 2, (1, 512, 509, 3)).astype(np.float32)
    got = run_layer(GlobalAvgPool2D(), [src]).outputs[0]
    np.testing.assert_allclose(got, src.astype(np.float64).mean((1, 2)), rtol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layer", [MaxPool2D(3, 2, 1), AvgPool2D(3, 2, 1), LpPool2D(2, 1), GlobalAvgPool2D(True),
                                   GlobalMaxPool2D(True)], ids=lambda layer: type(layer).__name__)
def test_gaps_between_pixels_change_nothing(layer, level):
    src = np.random.default_rng(0).standard_normal((2, 7, 9, 256)).astype(np.float32)
    diff_dst = np.random.default_rng(1).standard_normal(layer.infer_shapes(src.shape)[0]).astype(np.float32)
    dense, gaps = (run_layer(x, [src], [diff_dst], level=level) for x in (layer, Between(layer)))
    np.testing.assert_array_equal(dense.outputs[0], gaps.outputs[0])
    np.testing.assert_array_equal(dense.diff_inputs[0], gaps.diff_inputs[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("padding", "size", "stride", "out"),
                         [("same", 7, 2, 4), ("same", 8, 3, 3), ("valid", 7, 2, 3)])
def test_named_padding_follows_the_rule_of_the_field(kind, padding, size, stride, out):
    src = np.random.default_rng(0).standard_normal((1, size, size, 2)).astype(np.float32)
    total = max((out - 1) * stride + 3 - size, 0) if padding == "same" else 0
    pads = (total // 2, total - total // 2)
    expected = KINDS[kind](src.astype(np.float64), kernel=(3, 3), strides=(stride, stride), padding=(pads, pads))
    assert expected.shape == (1, out, out, 2)
    close(run_layer(kind(3, stride, padding), [src]).outputs[0], expected)


def test_channels_first():
    src = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
    last = np.ascontiguousarray(src.transpose(0, 2, 3, 1))
    for kind, options in ((MaxPool2D, {}), (AvgPool2D, {}), (GlobalAvgPool2D, {"keepdims": True})):
        first = run_layer(kind(**options, data_format="channels_first"), [src]).outputs[0]
        np.testing.assert_array_equal(first.transpose(0, 2, 3, 1), run_layer(kind(**options), [last]).outputs[0])
    assert run_layer(GlobalMaxPool2D(data_format="channels_first"), [src]).outputs[0].shape == (2, 3)


@pytest.mark.parametrize("level", LEVELS)
def test_nan_is_not_swallowed(level):
    src = np.zeros((1, 4, 4, 3), np.float32)
    src[0, 1, 1, 1] = np.nan
    got = run_layer(MaxPool2D(2), [src], level=level).outputs[0]
    assert np.isnan(got[0, 0, 0, 1]) and np.isnan(got).sum() == 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 5, 8, 13, 33])
def test_gradient_of_a_window_with_a_nan_and_of_a_minus_zero(level, strides, channels):
    """No tap equals a NaN, so none receives; what is written once has the bits of what is added to a zero."""
    src = np.random.default_rng(0).standard_normal((2, 7, 9, channels)).astype(np.float32)
    src[:, 0, 0, 0] = np.nan
    layer = MaxPool2D(2, strides)
    diff_dst = np.full(layer.infer_shapes(src.shape)[0], -0.0, np.float32)
    diff_dst[0] = 1
    diff_src = run_layer(layer, [src], [diff_dst], level=level).diff_inputs[0]
    dst = run_layer(layer, [src], level=level).outputs[0]
    assert np.isnan(dst).any() and diff_src[0].sum() == (~np.isnan(dst[0])).sum()
    assert not diff_src[1].any() and not np.signbit(diff_src).any()


def test_strides_default_to_the_window_and_unknown_extents_stay_unknown():
    layer = MaxPool2D((2, 3))
    assert layer.strides == (2, 3)
    assert layer.infer_shapes((None, 8, None, 5)) == [(None, 4, None, 5)]
    assert layer.window.kernel == (2, 3) and layer.window.strides == (2, 3)
    assert GlobalAvgPool2D().infer_shapes((None, None, None, 5)) == [(None, 5)]


BAD = [
    (lambda: MaxPool2D(0), r"maxpool2d: `pool_size` must be at least 1"),
    (lambda: MaxPool2D(2, 0), r"`strides` must be at least 1"),
    (lambda: MaxPool2D(2, padding="full"), r"`padding` must be 'valid', 'same' or"),
    (lambda: MaxPool2D(2, padding=2), r"`padding` must be smaller than the window, which spans \(2, 2\)"),
    (lambda: AvgPool2D(3, padding=((0, 0), (1, 3))), r"`padding` must be smaller than the window"),
    (lambda: LpPool2D(2, power=0.5), r"`power` must be at least 1"),
    (lambda: LpPool2D(2, power=float("nan")), r"`power` must be a finite number"),
    (lambda: MaxPool2D(2, ceil_mode="yes"), r"`ceil_mode` must be True or False"),
    (lambda: MaxPool2D(9).infer_shapes((1, 8, 9, 3)), r"`pool_size` must fit on the padded source.*source shape \(1"),
    (lambda: MaxPool2D(2).infer_shapes((1, 8, 3)), r"`src` must have rank 4, \(N, H, W, C\)"),
    (lambda: GlobalMaxPool2D().infer_shapes((1, 8)), r"`src` must have rank 4, \(N, H, W, C\)"),
    (lambda: MaxPool2D(2, 1, 3, dilation=5).infer_shapes((1, 3, 9, 2)), r"`dilation` must leave every window a pixel"),
    (lambda: MaxPool2D(2, 1, "same", dilation=5).infer_shapes((1, 3, 9, 2)), r"`dilation` must leave every window"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
