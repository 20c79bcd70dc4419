"""Separable convolution against the twins of its two parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.layers.separable_conv2d import SeparableConv2D
from tests.layers.windows import cases, check, random_weights


@given(case=cases(channels=st.sampled_from([1, 3, 17, 65]), widths=st.sampled_from([1, 7, 13, 17])),
       filters=st.sampled_from([1, 5, 16, 33]), multiplier=st.sampled_from([1, 1, 2]), use_bias=st.booleans())
@settings(max_examples=80)
def test_is_a_depthwise_then_a_pointwise_convolution(case, filters, multiplier, use_bias):
    src = case.source()
    layer = SeparableConv2D(filters, case.kernel, case.strides, case.padding, case.dilation, multiplier, use_bias)
    depthwise, pointwise, *bias = random_weights(layer, src.shape, case.rng)
    exact, shape = src.astype(np.float64), src.shape
    keywords = dict(strides=case.strides, padding=case.padding, dilation=case.dilation)

    def expected(diff_dst):
        between = reference.depthwise_conv2d(exact, depthwise, **keywords)
        diff_between = reference.conv2d_backward_data(diff_dst, pointwise, between.shape)
        results = [reference.conv2d(between, pointwise, *bias),
                   reference.depthwise_conv2d_backward_data(diff_between, depthwise, shape, **keywords),
                   reference.depthwise_conv2d_backward_weights(exact, diff_between, depthwise.shape, **keywords),
                   reference.conv2d_backward_weights(between, diff_dst, pointwise.shape)]
        return results + [reference.conv2d_backward_bias(diff_dst)] * use_bias

    check(layer, src, case, expected)


def test_shapes_and_operations():
    layer = SeparableConv2D(8, 3, 2, "same", depth_multiplier=2)
    assert layer.infer_shapes((None, 7, None, 3)) == [(None, 4, None, 8)]
    assert {k: s.shape for k, s in layer.parameters((None, 7, 7, 3)).items()} == {
        "depthwise": (3, 3, 3, 2), "pointwise": (1, 1, 6, 8), "bias": (8,)}


@pytest.mark.parametrize(("make", "words"), [
    (lambda: SeparableConv2D(0, 3), r"separableconv2d: `filters` must be at least 1"),
    (lambda: SeparableConv2D(4, 9, name="x").infer_shapes((1, 8, 8, 3)), r"separableconv2d 'x': `kernel_size` must"),
    (lambda: SeparableConv2D(4, 3).infer_shapes((1, 8, 8)), r"`src` must have rank 4"),
])
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
