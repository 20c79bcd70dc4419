"""Convolutions, transposed convolutions, locally connected and dense layers.

Every convolution of a neural network is a cross-correlation; `flip_kernel` gives the convolution of signal processing.
Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.signal import convolve, correlate

from cnnext.reference._window import NO_PADDING, Array, Padding, Pair, Shape, Window, require


def conv2d(
    src: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Cross-correlate ``src`` with ``weights``.

    Parameters
    ----------
    src : (N, IH, IW, IC) floating
    weights : (KH, KW, IC//G, OC), the dtype of ``src``
    bias : (OC,), optional
    strides, dilation : (rows, columns)
    padding : ((top, bottom), (left, right)), zeros
    groups : output channel oc reads the input channels of its group, oc // (OC//G), alone

    Returns
    -------
    (N, OH, OW, OC), OH = floor((IH + PT + PB - ((KH - 1) DH + 1)) / SH) + 1

    Raises
    ------
    ValueError
        If channels and groups disagree or the window does not fit in the padded source.
    """
    window = _window("conv2d", weights.shape, strides, padding, dilation)
    _require_groups(window.where, src.shape, weights.shape, groups)
    output_size = window.output_size(src.shape)
    padded = window.pad(src, output_size)
    kernel = _insert_zeros(weights, 0, dilation)
    dst = np.zeros((src.shape[0], *output_size, weights.shape[3]), src.dtype)
    for ic, k, oc in _channel_pairs(weights.shape, groups):
        dense = correlate(padded[..., ic], kernel[np.newaxis, :, :, k, oc], mode="valid", method="direct")
        dst[..., oc] += dense[:, :: strides[0], :: strides[1]]
    return dst if bias is None else dst + bias


def conv2d_backward_data(
    diff_dst: Array,
    weights: Array,
    src_shape: Shape,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Gradient of `conv2d` with respect to its source.

    Parameters
    ----------
    diff_dst : (N, OH, OW, OC)
    weights : (KH, KW, IC//G, OC)
    src_shape : (N, IH, IW, IC)
    strides, padding, dilation, groups : as in `conv2d`

    Returns
    -------
    (N, IH, IW, IC)
    """
    window = _window("conv2d_backward_data", weights.shape, strides, padding, dilation)
    _require_groups(window.where, src_shape, weights.shape, groups)
    _require_dst(window, diff_dst, (src_shape[0], *window.output_size(src_shape), weights.shape[3]), src_shape)
    return _adjoint(diff_dst, weights, src_shape, window, groups)


def conv2d_backward_weights(
    src: Array,
    diff_dst: Array,
    weights_shape: Shape,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Gradient of `conv2d` with respect to its weights.

    Parameters
    ----------
    src : (N, IH, IW, IC)
    diff_dst : (N, OH, OW, OC)
    weights_shape : (KH, KW, IC//G, OC)
    strides, padding, dilation, groups : as in `conv2d`

    Returns
    -------
    (KH, KW, IC//G, OC)
    """
    window = _window("conv2d_backward_weights", weights_shape, strides, padding, dilation)
    _require_groups(window.where, src.shape, weights_shape, groups)
    _require_dst(window, diff_dst, (src.shape[0], *window.output_size(src.shape), weights_shape[3]), src.shape)
    return _correlate_taps(src, diff_dst, weights_shape, window, groups)


def conv2d_backward_bias(diff_dst: Array) -> Array:
    """Gradient with respect to a bias (OC,) that was added to every pixel of (N, OH, OW, OC)."""
    return diff_dst.sum(axis=(0, 1, 2))


def flip_kernel(weights: Array) -> Array:
    """``weights`` (KH, KW, ...) turned by half a turn: with it, `conv2d` is the convolution of signal processing."""
    return weights[::-1, ::-1]


def conv2d_transpose(
    src: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
    output_padding: Pair = (0, 0),
) -> Array:
    """Adjoint of the `conv2d` with the same weights, from its destination to its source.

    Parameters
    ----------
    src : (N, IH, IW, IC) floating
    weights : (KH, KW, OC//G, IC)
    bias : (OC,), optional
    strides, dilation, groups : as in `conv2d`
    padding : rows and columns cut off the result
    output_padding : rows and columns added at the bottom and at the right, before ``padding`` is cut off

    Returns
    -------
    (N, OH, OW, OC), OH = (IH - 1) SH + (KH - 1) DH + 1 - PT - PB + output_padding[0]

    Raises
    ------
    ValueError
        If channels and groups disagree or nothing is left of the result.
    """
    window = _window("conv2d_transpose", weights.shape, strides, padding, dilation)
    dst_shape = _transpose_dst_shape(window, src.shape, weights.shape, groups, output_padding)
    dst = _adjoint(src, weights, dst_shape, window, groups)
    return dst if bias is None else dst + bias


def conv2d_transpose_backward_data(
    diff_dst: Array,
    weights: Array,
    src_shape: Shape,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
    output_padding: Pair = (0, 0),
) -> Array:
    """Gradient of `conv2d_transpose` with respect to its source.

    Parameters
    ----------
    diff_dst : (N, OH, OW, OC)
    weights : (KH, KW, OC//G, IC)
    src_shape : (N, IH, IW, IC)
    strides, padding, dilation, groups, output_padding : as in `conv2d_transpose`

    Returns
    -------
    (N, IH, IW, IC)
    """
    window = _window("conv2d_transpose_backward_data", weights.shape, strides, padding, dilation)
    dst_shape = _transpose_dst_shape(window, src_shape, weights.shape, groups, output_padding)
    _require_dst(window, diff_dst, dst_shape, src_shape)
    diff_src = conv2d(diff_dst, weights, strides=strides, padding=padding, dilation=dilation, groups=groups)
    # An output padding of a stride or more makes room for further windows; the source had no pixel for them.
    return diff_src[:, : src_shape[1], : src_shape[2]]


def conv2d_transpose_backward_weights(
    src: Array,
    diff_dst: Array,
    weights_shape: Shape,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
    output_padding: Pair = (0, 0),
) -> Array:
    """Gradient of `conv2d_transpose` with respect to its weights.

    Parameters
    ----------
    src : (N, IH, IW, IC)
    diff_dst : (N, OH, OW, OC)
    weights_shape : (KH, KW, OC//G, IC)
    strides, padding, dilation, groups, output_padding : as in `conv2d_transpose`

    Returns
    -------
    (KH, KW, OC//G, IC)
    """
    window = _window("conv2d_transpose_backward_weights", weights_shape, strides, padding, dilation)
    dst_shape = _transpose_dst_shape(window, src.shape, weights_shape, groups, output_padding)
    _require_dst(window, diff_dst, dst_shape, src.shape)
    return _correlate_taps(diff_dst, src, weights_shape, window, groups)


def depthwise_conv2d(
    src: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """Cross-correlate each channel with M kernels of its own.

    Parameters
    ----------
    src : (N, IH, IW, C) floating
    weights : (KH, KW, C, M)
    bias : (C*M,), optional
    strides, padding, dilation : as in `conv2d`

    Returns
    -------
    (N, OH, OW, C*M), output channel c*M + m
    """
    grouped = weights.reshape(_grouped_shape(weights.shape))
    groups = weights.shape[2]
    return conv2d(src, grouped, bias, strides=strides, padding=padding, dilation=dilation, groups=groups)


def depthwise_conv2d_backward_data(
    diff_dst: Array,
    weights: Array,
    src_shape: Shape,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """Gradient of `depthwise_conv2d` with respect to its source (N, IH, IW, C); arguments as there."""
    grouped = weights.reshape(_grouped_shape(weights.shape))
    groups = weights.shape[2]
    return conv2d_backward_data(
        diff_dst, grouped, src_shape, strides=strides, padding=padding, dilation=dilation, groups=groups
    )


def depthwise_conv2d_backward_weights(
    src: Array,
    diff_dst: Array,
    weights_shape: Shape,
    *,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """Gradient of `depthwise_conv2d` with respect to its weights (KH, KW, C, M); arguments as there."""
    grouped_shape, groups = _grouped_shape(weights_shape), weights_shape[2]
    diff_weights = conv2d_backward_weights(
        src, diff_dst, grouped_shape, strides=strides, padding=padding, dilation=dilation, groups=groups
    )
    return diff_weights.reshape(weights_shape)


def locally_connected2d(
    src: Array,
    weights: Array,
    bias: Array | None = None,
    *,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
) -> Array:
    """A convolution whose weights are not shared: every output pixel has its own.

    Parameters
    ----------
    src : (N, IH, IW, IC) floating
    weights : (OH, OW, KH*KW*IC, OC), the third axis in (kh, kw, ic) order
    bias : (OH, OW, OC), optional
    kernel_size, strides : (rows, columns)
    padding : ((top, bottom), (left, right)), zeros

    Returns
    -------
    (N, OH, OW, OC)

    Raises
    ------
    ValueError
        If the weights do not have the shape above.
    """
    window = Window("locally_connected2d", kernel_size, strides, padding)
    patches = _patches(src, window)
    expected = (*patches.shape[1:], weights.shape[-1])
    require(weights.shape == expected, window.where, "weights", f"have the shape {expected}", weights.shape, src.shape)
    dst = np.einsum("nhwk,hwko->nhwo", patches, weights)
    return dst if bias is None else dst + bias


def locally_connected2d_backward_data(
    diff_dst: Array,
    weights: Array,
    src_shape: Shape,
    *,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
) -> Array:
    """Gradient of `locally_connected2d` with respect to its source (N, IH, IW, IC); arguments as there."""
    window = Window("locally_connected2d_backward_data", kernel_size, strides, padding)
    output_size = window.output_size(src_shape)
    _require_dst(window, diff_dst, (src_shape[0], *output_size, weights.shape[3]), src_shape)
    diff_patches = np.einsum("nhwo,hwko->nhwk", diff_dst, weights)
    diff_taps = diff_patches.reshape(*diff_dst.shape[:3], *kernel_size, src_shape[3])
    diff_padded = window.pad(np.zeros(src_shape, diff_dst.dtype), output_size)
    for kh, kw, pixels in window.taps(output_size):
        diff_padded[pixels] += diff_taps[:, :, :, kh, kw]
    return window.unpad(diff_padded, src_shape)


def locally_connected2d_backward_weights(
    src: Array,
    diff_dst: Array,
    *,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = NO_PADDING,
) -> Array:
    """Gradient of `locally_connected2d` with respect to its weights (OH, OW, KH*KW*IC, OC); arguments as there."""
    window = Window("locally_connected2d_backward_weights", kernel_size, strides, padding)
    _require_dst(window, diff_dst, (src.shape[0], *window.output_size(src.shape), diff_dst.shape[-1]), src.shape)
    return np.einsum("nhwk,nhwo->hwko", _patches(src, window), diff_dst)


def locally_connected2d_backward_bias(diff_dst: Array) -> Array:
    """Gradient of `locally_connected2d` with respect to its bias (OH, OW, OC)."""
    return diff_dst.sum(axis=0)


def dense(src: Array, weights: Array, bias: Array | None = None) -> Array:
    """``src @ weights + bias`` of shapes (..., IN), (IN, OUT), (OUT,)."""
    dst = src @ weights
    return dst if bias is None else dst + bias


def dense_backward_data(diff_dst: Array, weights: Array) -> Array:
    """Gradient of `dense` with respect to its source (..., IN)."""
    return diff_dst @ weights.T


def dense_backward_weights(src: Array, diff_dst: Array) -> Array:
    """Gradient of `dense` with respect to its weights (IN, OUT), summed over all leading axes."""
    return src.reshape(-1, src.shape[-1]).T @ diff_dst.reshape(-1, diff_dst.shape[-1])


def dense_backward_bias(diff_dst: Array) -> Array:
    """Gradient of `dense` with respect to its bias (OUT,), summed over all leading axes."""
    return diff_dst.reshape(-1, diff_dst.shape[-1]).sum(axis=0)


def _window(where: str, weights_shape: Shape, strides: Pair, padding: Padding, dilation: Pair) -> Window:
    require(len(weights_shape) == 4, where, "weights", "have four axes", weights_shape)
    return Window(where, (weights_shape[0], weights_shape[1]), strides, padding, dilation)


def _require_dst(window: Window, diff_dst: Array, dst_shape: Shape, src_shape: Shape) -> None:
    matches = diff_dst.shape == dst_shape
    require(matches, window.where, "diff_dst", f"have the shape {dst_shape}", diff_dst.shape, src_shape)


def _insert_zeros(values: Array, axis: int, steps: Pair) -> Array:
    """Spread two neighbouring axes, from ``axis`` on: one value every ``steps``, zeros between."""
    height, width = values.shape[axis : axis + 2]
    size = ((height - 1) * steps[0] + 1, (width - 1) * steps[1] + 1)
    spread = np.zeros((*values.shape[:axis], *size, *values.shape[axis + 2 :]), values.dtype)
    spread[(slice(None),) * axis + (slice(None, None, steps[0]), slice(None, None, steps[1]))] = values
    return spread


def _require_groups(where: str, src_shape: Shape, weights_shape: Shape, groups: int) -> None:
    outputs = weights_shape[3]
    require(groups >= 1 and outputs % groups == 0, where, "groups", f"divide {outputs} channels", groups, src_shape)
    matches = src_shape[3] == weights_shape[2] * groups
    require(matches, where, "weights", f"connect {src_shape[3]} channels in {groups} groups", weights_shape, src_shape)


def _channel_pairs(weights_shape: Shape, groups: int) -> Iterator[tuple[int, int, int]]:
    """Each (ic, k, oc) that a convolution connects, with k the index of ic within its group."""
    group_inputs, outputs = weights_shape[2:]
    for oc in range(outputs):
        g = oc // (outputs // groups)
        for k in range(group_inputs):
            yield g * group_inputs + k, k, oc


def _adjoint(diff_dst: Array, weights: Array, src_shape: Shape, window: Window, groups: int) -> Array:
    """Spread each pixel of ``diff_dst`` over the window it was read from."""
    spread = _insert_zeros(diff_dst, 1, window.strides)
    kernel = _insert_zeros(weights, 0, window.dilation)
    rows, columns = spread.shape[1] + kernel.shape[0] - 1, spread.shape[2] + kernel.shape[1] - 1
    # Padded rows and columns beyond the last window belong to no window: their gradient stays 0.
    diff_padded = np.zeros((src_shape[0], *window.padded_size(src_shape), src_shape[3]), diff_dst.dtype)
    for ic, k, oc in _channel_pairs(weights.shape, groups):
        full = convolve(spread[..., oc], kernel[np.newaxis, :, :, k, oc], mode="full", method="direct")
        diff_padded[:, :rows, :columns, ic] += full
    return window.unpad(diff_padded, src_shape)


def _correlate_taps(src: Array, diff_dst: Array, weights_shape: Shape, window: Window, groups: int) -> Array:
    """Product of ``diff_dst`` with what each tap saw of ``src``, summed over batch and pixels."""
    output_size = (diff_dst.shape[1], diff_dst.shape[2])
    padded = window.pad(src, output_size)
    diff_weights = np.zeros(weights_shape, src.dtype)
    group_inputs, group_outputs = weights_shape[2], weights_shape[3] // groups
    for g in range(groups):
        seen = padded[..., g * group_inputs : (g + 1) * group_inputs]
        outputs = slice(g * group_outputs, (g + 1) * group_outputs)
        for kh, kw, pixels in window.taps(output_size):
            product = np.einsum("nhwi,nhwo->io", seen[pixels], diff_dst[..., outputs])
            diff_weights[kh, kw, :, outputs] = product
    return diff_weights


def _transpose_dst_shape(
    window: Window, src_shape: Shape, weights_shape: Shape, groups: int, output_padding: Pair
) -> Shape:
    (top, bottom), (left, right) = window.padding
    height = (src_shape[1] - 1) * window.strides[0] + window.extent[0] - top - bottom + output_padding[0]
    width = (src_shape[2] - 1) * window.strides[1] + window.extent[1] - left - right + output_padding[1]
    channels = src_shape[3]
    require(weights_shape[3] == channels, window.where, "weights", f"end in {channels}", weights_shape, src_shape)
    divides = groups >= 1 and channels % groups == 0
    require(divides, window.where, "groups", f"divide {channels} channels", groups, src_shape)
    require(min(output_padding) >= 0, window.where, "output_padding", "not be negative", output_padding, src_shape)
    require(min(height, width) >= 1, window.where, "padding", "leave some of the result", window.padding, src_shape)
    return src_shape[0], height, width, weights_shape[2] * groups


def _grouped_shape(weights_shape: Shape) -> Shape:
    """Shape of depthwise weights (KH, KW, C, M) as those of a convolution in C groups."""
    height, width, channels, multiplier = weights_shape
    return height, width, 1, channels * multiplier


def _patches(src: Array, window: Window) -> Array:
    """What each output pixel reads, (N, OH, OW, KH*KW*IC)."""
    output_size = window.output_size(src.shape)
    padded = window.pad(src, output_size)
    return np.concatenate([padded[pixels] for _, _, pixels in window.taps(output_size)], axis=-1)
