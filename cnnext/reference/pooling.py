"""Pools. A window may reach beyond the source: taps that lie outside are ignored."""

from __future__ import annotations

import numpy as np

from cnnext.reference._window import NO_PADDING, Array, Padding, Pair, Shape, Window, require


def max_pool2d(
    src: Array,
    *,
    kernel: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    output_size: Pair | None = None,
) -> Array:
    """Largest value of each window.

    Parameters
    ----------
    src : (N, IH, IW, C) floating
    kernel, strides, dilation : (rows, columns)
    padding : ((top, bottom), (left, right)), never chosen
    output_size : (OH, OW), to let the last windows reach beyond the padded source; by default all windows are whole

    Returns
    -------
    (N, OH, OW, C), -infinity where a window lies wholly outside the source

    Raises
    ------
    ValueError
        If no window fits, or the last window of ``output_size`` begins beyond the padded source.
    """
    window = Window("max_pool2d", kernel, strides, padding, dilation)
    return _gather(src, window, _output_size(window, src.shape, output_size), -np.inf).max(axis=0)


def max_pool2d_backward(
    src: Array,
    diff_dst: Array,
    *,
    kernel: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    output_size: Pair | None = None,
) -> Array:
    """Gradient of `max_pool2d`: the first maximum of a window, in (kh, kw) order, receives all of it."""
    window = Window("max_pool2d_backward", kernel, strides, padding, dilation)
    size = _output_size(window, src.shape, output_size)
    taps = _gather(src, window, size, -np.inf)
    inside = _gather(np.ones((1, *src.shape[1:3], 1), src.dtype), window, size, 0.0) > 0
    is_maximum = (taps == taps.max(axis=0)) & inside
    is_first = is_maximum & (np.cumsum(is_maximum, axis=0) == 1)
    return _scatter(is_first * diff_dst, window, src.shape)


def avg_pool2d(
    src: Array,
    *,
    kernel: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    output_size: Pair | None = None,
    count_include_pad: bool = False,
) -> Array:
    """Mean of each window.

    Parameters
    ----------
    src : (N, IH, IW, C) floating
    kernel, strides, padding, dilation, output_size : as in `max_pool2d`
    count_include_pad : divide by the number of taps inside the padded source instead of inside the source; what a
        last window reaches beyond the declared padding never counts

    Returns
    -------
    (N, OH, OW, C), 0 where no tap counts
    """
    window = Window("avg_pool2d", kernel, strides, padding, dilation)
    size = _output_size(window, src.shape, output_size)
    divisor = _divisor(window, src.shape, size, count_include_pad).astype(src.dtype)
    return _gather(src, window, size, 0.0).sum(axis=0) / divisor


def avg_pool2d_backward(
    src: Array,
    diff_dst: Array,
    *,
    kernel: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    output_size: Pair | None = None,
    count_include_pad: bool = False,
) -> Array:
    """Gradient of `avg_pool2d`; of ``src`` only the shape is used."""
    window = Window("avg_pool2d_backward", kernel, strides, padding, dilation)
    size = _output_size(window, src.shape, output_size)
    share = diff_dst / _divisor(window, src.shape, size, count_include_pad).astype(diff_dst.dtype)
    return _scatter(np.broadcast_to(share, (kernel[0] * kernel[1], *share.shape)), window, src.shape)


def lp_pool2d(
    src: Array,
    *,
    kernel: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    output_size: Pair | None = None,
    power: float = 2,
) -> Array:
    """Norm of each window, ``(sum |x|^power)^(1/power)``.

    Parameters
    ----------
    src : (N, IH, IW, C) floating
    kernel, strides, padding, dilation, output_size : as in `max_pool2d`
    power : at least 1

    Returns
    -------
    (N, OH, OW, C)
    """
    window = Window("lp_pool2d", kernel, strides, padding, dilation)
    require(power >= 1, window.where, "power", "be at least 1", power, src.shape)
    taps = _gather(src, window, _output_size(window, src.shape, output_size), 0.0)
    return (np.abs(taps) ** power).sum(axis=0) ** (1 / power)


def lp_pool2d_backward(
    src: Array,
    diff_dst: Array,
    *,
    kernel: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    output_size: Pair | None = None,
    power: float = 2,
) -> Array:
    """Gradient of `lp_pool2d`, ``sign(x) (|x| / dst)^(power-1)`` of ``diff_dst``, and 0 where the norm is 0."""
    dst = lp_pool2d(
        src,
        kernel=kernel,
        strides=strides,
        padding=padding,
        dilation=dilation,
        output_size=output_size,
        power=power,
    )
    window = Window("lp_pool2d_backward", kernel, strides, padding, dilation)
    taps = _gather(src, window, _output_size(window, src.shape, output_size), 0.0)
    ratio = np.divide(np.abs(taps), dst, out=np.zeros_like(taps), where=dst > 0)
    return _scatter(np.sign(taps) * ratio ** (power - 1) * diff_dst, window, src.shape)


def global_max_pool2d(src: Array) -> Array:
    """Largest value of each channel, (N, H, W, C) to (N, 1, 1, C)."""
    return src.max(axis=(1, 2), keepdims=True)


def global_max_pool2d_backward(src: Array, diff_dst: Array) -> Array:
    """Gradient of `global_max_pool2d`: the first maximum, in (h, w) order, receives all of it."""
    return max_pool2d_backward(src, diff_dst, kernel=(src.shape[1], src.shape[2]), strides=(1, 1))


def global_avg_pool2d(src: Array) -> Array:
    """Mean of each channel, (N, H, W, C) to (N, 1, 1, C)."""
    return src.mean(axis=(1, 2), keepdims=True)


def global_avg_pool2d_backward(src: Array, diff_dst: Array) -> Array:
    """Gradient of `global_avg_pool2d`; of ``src`` only the shape is used."""
    return np.broadcast_to(diff_dst / (src.shape[1] * src.shape[2]), src.shape).copy()


def _output_size(window: Window, src_shape: Shape, output_size: Pair | None) -> Pair:
    if output_size is None:
        return window.output_size(src_shape)
    height, width = window.padded_size(src_shape)
    first, last_row = min(output_size), (output_size[0] - 1) * window.strides[0]
    begins = first >= 1 and last_row < height and (output_size[1] - 1) * window.strides[1] < width
    require(begins, window.where, "output_size", "let each window begin in the padded source", output_size, src_shape)
    return output_size


def _gather(src: Array, window: Window, output_size: Pair, outside: float) -> Array:
    """What each tap sees, (KH*KW, N, OH, OW, C), with ``outside`` for what is not in the source."""
    padded = window.pad(src, output_size, outside)
    return np.stack([padded[pixels] for _, _, pixels in window.taps(output_size)])


def _scatter(diff_taps: Array, window: Window, src_shape: Shape) -> Array:
    """Adjoint of `_gather`: add what each tap receives to the pixel it saw."""
    output_size = (diff_taps.shape[2], diff_taps.shape[3])
    diff_padded = window.pad(np.zeros(src_shape, diff_taps.dtype), output_size)
    for diff_tap, (_, _, pixels) in zip(diff_taps, window.taps(output_size), strict=True):
        diff_padded[pixels] += diff_tap
    return window.unpad(diff_padded, src_shape)


def _divisor(window: Window, src_shape: Shape, output_size: Pair, count_include_pad: bool) -> Array:
    """Number of taps that count in each window, at least 1: (OH, OW, 1)."""
    counts = []
    for axis in range(2):
        before, after = window.padding[axis]
        tap = np.arange(window.kernel[axis]) * window.dilation[axis]
        position = np.arange(output_size[axis])[:, np.newaxis] * window.strides[axis] + tap - before
        first, end = (-before, src_shape[1 + axis] + after) if count_include_pad else (0, src_shape[1 + axis])
        counts.append(((position >= first) & (position < end)).sum(axis=1))
    return np.maximum(np.outer(*counts), 1)[:, :, np.newaxis]
