"""Convolution twins: forward against loops, backward against central differences and adjoints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from cnnext import reference
from cnnext.reference import numerical_gradient

SETTINGS = settings(max_examples=60, deadline=None)
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))
DILATION = st.tuples(st.integers(1, 2), st.integers(1, 2))
PADDING = st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2)))


def close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-8)


@st.composite
def geometries(draw, grouped=True, dilated=True):
    """Kernel, keyword arguments, a source size that holds at least one window, and a random generator."""
    kernel, padding = draw(PAIR), draw(PADDING)
    dilation = draw(DILATION) if dilated else (1, 1)
    size = []
    for axis in range(2):
        smallest = max(1, (kernel[axis] - 1) * dilation[axis] + 1 - sum(padding[axis]))
        size.append(draw(st.integers(smallest, smallest + 4)))
    options = {"strides": draw(STRIDES), "padding": padding}
    if dilated:
        options["dilation"] = dilation
    if grouped:
        options["groups"] = draw(st.integers(1, 3))
    return kernel, options, tuple(size), np.random.default_rng(draw(st.integers(0, 2**32)))


@st.composite
def convolutions(draw):
    kernel, options, size, rng = draw(geometries())
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    src = rng.standard_normal((draw(st.integers(1, 2)), *size, inputs * options["groups"]))
    weights = rng.standard_normal((*kernel, inputs, outputs * options["groups"]))
    return src, weights, options, rng


@st.composite
def transposes(draw):
    """Weights (KH, KW, OC//G, IC); an output padding below the larger of stride and dilation."""
    kernel, options, size, rng = draw(geometries())
    (sh, sw), (dh, dw), padding = options["strides"], options["dilation"], options["padding"]
    output_padding = draw(st.integers(0, max(sh, dh) - 1)), draw(st.integers(0, max(sw, dw) - 1))
    # What the padding cuts off must leave something.
    size = [n + -(-sum(cut) // stride) for n, cut, stride in zip(size, padding, (sh, sw))]
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    src = rng.standard_normal((1, *size, inputs * options["groups"]))
    weights = rng.standard_normal((*kernel, outputs, inputs * options["groups"]))
    return src, weights, {**options, "output_padding": output_padding}, rng


def conv2d_loops(src, weights, bias, strides, padding, dilation, groups):
    """The definition of the convolution, one product at a time."""
    (n_batch, height, width, _), (kernel_h, kernel_w, inputs, outputs) = src.shape, weights.shape
    (top, bottom), (left, right) = padding
    out_h = (height + top + bottom - (kernel_h - 1) * dilation[0] - 1) // strides[0] + 1
    out_w = (width + left + right - (kernel_w - 1) * dilation[1] - 1) // strides[1] + 1
    dst = np.zeros((n_batch, out_h, out_w, outputs))
    for n, oh, ow, oc in np.ndindex(dst.shape):
        total = bias[oc]
        for kh, kw, k in np.ndindex(kernel_h, kernel_w, inputs):
            ih, iw = oh * strides[0] + kh * dilation[0] - top, ow * strides[1] + kw * dilation[1] - left
            if 0 <= ih < height and 0 <= iw < width:
                total += src[n, ih, iw, oc // (outputs // groups) * inputs + k] * weights[kh, kw, k, oc]
        dst[n, oh, ow, oc] = total
    return dst


def conv2d_transpose_loops(src, weights, bias, strides, padding, dilation, groups, output_padding):
    """Every source pixel adds its window to the destination, where the destination exists."""
    (n_batch, height, width, inputs), (kernel_h, kernel_w, outputs, _) = src.shape, weights.shape
    (top, bottom), (left, right) = padding
    out_h = (height - 1) * strides[0] + (kernel_h - 1) * dilation[0] + 1 - top - bottom + output_padding[0]
    out_w = (width - 1) * strides[1] + (kernel_w - 1) * dilation[1] + 1 - left - right + output_padding[1]
    dst = np.zeros((n_batch, out_h, out_w, outputs * groups)) + bias
    for n, ih, iw, ic in np.ndindex(src.shape):
        for kh, kw, k in np.ndindex(kernel_h, kernel_w, outputs):
            oh, ow = ih * strides[0] + kh * dilation[0] - top, iw * strides[1] + kw * dilation[1] - left
            if 0 <= oh < out_h and 0 <= ow < out_w:
                oc = ic // (inputs // groups) * outputs + k
                dst[n, oh, ow, oc] += src[n, ih, iw, ic] * weights[kh, kw, k, ic]
    return dst


@SETTINGS
@given(convolutions())
def test_conv2d_is_its_definition(case):
    src, weights, options, rng = case
    bias = rng.standard_normal(weights.shape[3])
    close(reference.conv2d(src, weights, bias, **options), conv2d_loops(src, weights, bias, **options))


@SETTINGS
@given(convolutions())
def test_conv2d_backward(case):
    src, weights, options, rng = case
    bias = rng.standard_normal(weights.shape[3])
    diff_dst = rng.standard_normal(reference.conv2d(src, weights, **options).shape)
    close(
        reference.conv2d_backward_data(diff_dst, weights, src.shape, **options),
        numerical_gradient(lambda x: reference.conv2d(x, weights, bias, **options), src, diff_dst),
    )
    close(
        reference.conv2d_backward_weights(src, diff_dst, weights.shape, **options),
        numerical_gradient(lambda w: reference.conv2d(src, w, bias, **options), weights, diff_dst),
    )
    close(
        reference.conv2d_backward_bias(diff_dst),
        numerical_gradient(lambda b: reference.conv2d(src, weights, b, **options), bias, diff_dst),
    )


def test_flipped_kernel_gives_the_convolution_of_signal_processing():
    rng = np.random.default_rng(1)
    image, kernel = rng.standard_normal((7, 6)), rng.standard_normal((3, 2))
    dst = reference.conv2d(image[None, :, :, None], reference.flip_kernel(kernel[:, :, None, None]))
    close(dst[0, :, :, 0], convolve2d(image, kernel, mode="valid"))


@SETTINGS
@given(transposes())
def test_conv2d_transpose_is_its_definition(case):
    src, weights, options, rng = case
    bias = rng.standard_normal(weights.shape[2] * options["groups"])
    close(
        reference.conv2d_transpose(src, weights, bias, **options),
        conv2d_transpose_loops(src, weights, bias, **options),
    )


@SETTINGS
@given(convolutions())
def test_conv2d_transpose_is_the_adjoint_of_conv2d(case):
    x, weights, options, rng = case
    dst = reference.conv2d(x, weights, **options)
    y = rng.standard_normal(dst.shape)
    whole = reference.conv2d_transpose(y, weights, **{**options, "padding": ((0, 0), (0, 0))})
    (top, bottom), (left, right) = options["padding"]
    # The output padding that leads back to the size of x: what the last window did not reach.
    beyond = x.shape[1] + top + bottom - whole.shape[1], x.shape[2] + left + right - whole.shape[2]
    back = reference.conv2d_transpose(y, weights, output_padding=beyond, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose((dst * y).sum(), (x * back).sum(), rtol=1e-9, atol=1e-9)


@SETTINGS
@given(transposes())
def test_conv2d_transpose_backward(case):
    src, weights, options, rng = case
    diff_dst = rng.standard_normal(reference.conv2d_transpose(src, weights, **options).shape)
    close(
        reference.conv2d_transpose_backward_data(diff_dst, weights, src.shape, **options),
        numerical_gradient(lambda x: reference.conv2d_transpose(x, weights, **options), src, diff_dst),
    )
    close(
        reference.conv2d_transpose_backward_weights(src, diff_dst, weights.shape, **options),
        numerical_gradient(lambda w: reference.conv2d_transpose(src, w, **options), weights, diff_dst),
    )


@SETTINGS
@given(geometries(grouped=False), st.integers(1, 3), st.integers(1, 3))
def test_depthwise_conv2d(geometry, channels, multiplier):
    kernel, options, size, rng = geometry
    src = rng.standard_normal((2, *size, channels))
    weights = rng.standard_normal((*kernel, channels, multiplier))
    bias = rng.standard_normal(channels * multiplier)
    dst = reference.depthwise_conv2d(src, weights, bias, **options)
    for c, m in np.ndindex(channels, multiplier):
        alone = reference.conv2d(src[..., c : c + 1], weights[:, :, c : c + 1, m : m + 1], **options)
        close(dst[..., c * multiplier + m], alone[..., 0] + bias[c * multiplier + m])

    diff_dst = rng.standard_normal(dst.shape)
    close(
        reference.depthwise_conv2d_backward_data(diff_dst, weights, src.shape, **options),
        numerical_gradient(lambda x: reference.depthwise_conv2d(x, weights, **options), src, diff_dst),
    )
    close(
        reference.depthwise_conv2d_backward_weights(src, diff_dst, weights.shape, **options),
        numerical_gradient(lambda w: reference.depthwise_conv2d(src, w, **options), weights, diff_dst),
    )


@st.composite
def local_connections(draw):
    kernel, options, size, rng = draw(geometries(grouped=False, dilated=False))
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    src = rng.standard_normal((2, *size, inputs))
    shared = rng.standard_normal((*kernel, inputs, outputs))
    output_size = reference.conv2d(src, shared, **options).shape[1:3]
    options["kernel_size"] = kernel
    weights = rng.standard_normal((*output_size, kernel[0] * kernel[1] * inputs, outputs))
    return src, weights, shared, options, rng


@SETTINGS
@given(local_connections())
def test_locally_connected2d_is_a_convolution_per_pixel(case):
    src, weights, shared, options, rng = case
    bias = rng.standard_normal((*weights.shape[:2], weights.shape[3]))
    dst = reference.locally_connected2d(src, weights, bias, **options)
    geometry = {"strides": options["strides"], "padding": options["padding"]}
    for oh, ow in np.ndindex(weights.shape[:2]):
        everywhere = reference.conv2d(src, weights[oh, ow].reshape(shared.shape), bias[oh, ow], **geometry)
        close(dst[:, oh, ow], everywhere[:, oh, ow])


@SETTINGS
@given(local_connections())
def test_locally_connected2d_backward(case):
    src, weights, _, options, rng = case
    bias = rng.standard_normal((*weights.shape[:2], weights.shape[3]))
    diff_dst = rng.standard_normal((src.shape[0], *bias.shape))
    close(
        reference.locally_connected2d_backward_data(diff_dst, weights, src.shape, **options),
        numerical_gradient(lambda x: reference.locally_connected2d(x, weights, bias, **options), src, diff_dst),
    )
    close(
        reference.locally_connected2d_backward_weights(src, diff_dst, **options),
        numerical_gradient(lambda w: reference.locally_connected2d(src, w, bias, **options), weights, diff_dst),
    )
    close(
        reference.locally_connected2d_backward_bias(diff_dst),
        numerical_gradient(lambda b: reference.locally_connected2d(src, weights, b, **options), bias, diff_dst),
    )


@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 1, 3)])
def test_dense(leading):
    rng = np.random.default_rng(2)
    src, weights, bias = rng.standard_normal((*leading, 5)), rng.standard_normal((5, 4)), rng.standard_normal(4)
    diff_dst = rng.standard_normal((*leading, 4))
    dst = reference.dense(src, weights, bias)
    for index in np.ndindex(dst.shape):
        *row, out = index
        expected = sum(src[(*row, i)] * weights[i, out] for i in range(5)) + bias[out]
        assert dst[index] == pytest.approx(expected)
    close(
        reference.dense_backward_data(diff_dst, weights),
        numerical_gradient(lambda x: reference.dense(x, weights, bias), src, diff_dst),
    )
    close(
        reference.dense_backward_weights(src, diff_dst),
        numerical_gradient(lambda w: reference.dense(src, w, bias), weights, diff_dst),
    )
    close(
        reference.dense_backward_bias(diff_dst),
        numerical_gradient(lambda b: reference.dense(src, weights, b), bias, diff_dst),
    )


def test_float32_stays_float32():
    rng = np.random.default_rng(3)
    src, weights = rng.standard_normal((2, 5, 5, 4), np.float32), rng.standard_normal((3, 3, 2, 4), np.float32)
    bias = rng.standard_normal(4, np.float32)
    dst = reference.conv2d(src, weights, bias, groups=2)
    local = rng.standard_normal((3, 3, 36, 4), np.float32)
    results = [
        dst,
        reference.conv2d_backward_data(dst, weights, src.shape, groups=2),
        reference.conv2d_backward_weights(src, dst, weights.shape, groups=2),
        reference.conv2d_backward_bias(dst),
        reference.conv2d_transpose(src, weights, bias, groups=2),
        reference.depthwise_conv2d(src, weights.reshape(3, 3, 4, 2)),
        reference.locally_connected2d(src, local, kernel_size=(3, 3)),
        reference.locally_connected2d_backward_data(dst, local, src.shape, kernel_size=(3, 3)),
        reference.locally_connected2d_backward_weights(src, dst, kernel_size=(3, 3)),
        reference.locally_connected2d_backward_bias(dst),
        reference.dense(src, weights[0, 0].T),
        reference.dense_backward_weights(src, src),
        reference.dense_backward_bias(src),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("weights_shape", "options", "message"),
    [
        ((6, 3, 4, 8), {}, r"conv2d: `kernel` must span no more than the padded source \(5, 5\)"),
        ((3, 3, 4, 8), {"groups": 2}, "conv2d: `weights` must connect 4 channels in 2 groups"),
        ((3, 3, 2, 3), {"groups": 2}, "conv2d: `groups` must divide 3 channels. Received groups=2"),
        ((3, 3, 4, 8), {"strides": (0, 1)}, "conv2d: `strides` must be two integers of at least 1"),
        ((3, 3, 4, 8), {"padding": ((0, -1), (0, 0))}, "conv2d: `padding` must not be negative"),
        ((3, 4, 8), {}, "conv2d: `weights` must have four axes"),
    ],
)
def test_conv2d_refuses(weights_shape, options, message):
    with pytest.raises(ValueError, match=message):
        reference.conv2d(np.zeros((1, 5, 5, 4)), np.zeros(weights_shape), **options)


def test_wrong_gradients_and_weights_are_refused():
    src, weights = np.zeros((1, 5, 5, 4)), np.zeros((3, 3, 4, 8))
    with pytest.raises(ValueError, match=r"`diff_dst` must have the shape \(1, 3, 3, 8\)"):
        reference.conv2d_backward_data(np.zeros((1, 4, 3, 8)), weights, src.shape)
    with pytest.raises(ValueError, match=r"`diff_dst` must have the shape \(1, 3, 3, 8\)"):
        reference.conv2d_backward_weights(src, np.zeros((1, 1, 1, 8)), weights.shape)
    with pytest.raises(ValueError, match="`weights` must end in 4"):
        reference.conv2d_transpose(src, weights)
    with pytest.raises(ValueError, match="`padding` must leave some of the result"):
        reference.conv2d_transpose(src, np.zeros((1, 1, 3, 4)), padding=((3, 2), (0, 0)))
    with pytest.raises(ValueError, match=r"`weights` must have the shape \(3, 3, 36, 2\)"):
        reference.locally_connected2d(src, np.zeros((3, 3, 35, 2)), kernel_size=(3, 3))
