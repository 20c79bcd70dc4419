"""Padding, cropping, upsampling and the order of axes, on channels-last tensors (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from cnnext.reference._window import Array, Padding, Pair, Shape, crop, require

PadMode = Literal["constant", "reflect", "edge"]
UpsampleMode = Literal["nearest", "bilinear"]


def pad2d(src: Array, padding: Padding, mode: PadMode = "constant", value: float = 0.0) -> Array:
    """Add rows and columns around ``src``.

    Parameters
    ----------
    src : (N, H, W, C)
    padding : ((top, bottom), (left, right))
    mode : "constant" fills with ``value``, "reflect" mirrors at the outermost pixel without repeating it, "edge"
        repeats it

    Returns
    -------
    (N, PT + H + PB, PL + W + PR, C)

    Raises
    ------
    ValueError
        If the mode is unknown, a padding is negative, or a reflection needs more pixels than there are.
    """
    if mode == "constant":
        require(min(padding[0] + padding[1]) >= 0, "pad2d", "padding", "not be negative", padding, src.shape)
        return np.pad(src, ((0, 0), *padding, (0, 0)), constant_values=value)
    rows, columns = _padded_indices(src.shape, padding, mode)
    return src[:, rows[:, np.newaxis], columns]


def pad2d_backward(diff_dst: Array, padding: Padding, mode: PadMode = "constant") -> Array:
    """Gradient of `pad2d`: each pixel gets the sum of what its copies received."""
    if mode == "constant":
        return crop(diff_dst, padding)
    diff_src = np.zeros_like(crop(diff_dst, padding))
    rows, columns = _padded_indices(diff_src.shape, padding, mode)
    for padded_row, row in enumerate(rows):
        for padded_column, column in enumerate(columns):
            diff_src[:, row, column] += diff_dst[:, padded_row, padded_column]
    return diff_src


def pad(src: Array, pairs: Sequence[Pair], mode: str = "constant", value: float = 0.0) -> Array:
    """`numpy.pad` by (before, after) of each axis; a negative number takes elements away first."""
    inside = src[_inside(pairs)]
    widths = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if mode == "constant":
        return np.pad(inside, widths, constant_values=value)
    return np.pad(inside, widths, mode=cast('Literal["reflect", "edge", "wrap"]', mode))


def pad_backward(src: Array, diff_dst: Array, pairs: Sequence[Pair], mode: str = "constant") -> Array:
    """Gradient of `pad`: each element gets the sum of what its copies received."""
    number = np.arange(src.size).reshape(src.shape)
    copies = pad(number, pairs, mode, -1)
    diff_src = np.zeros(src.size, diff_dst.dtype)
    np.add.at(diff_src, copies[copies >= 0], diff_dst[copies >= 0])
    return diff_src.reshape(src.shape)


def _inside(pairs: Sequence[Pair]) -> tuple[slice, ...]:
    return tuple(slice(max(-before, 0), min(after, 0) or None) for before, after in pairs)


def crop2d(src: Array, cropping: Padding) -> Array:
    """Take ((top, bottom), (left, right)) rows and columns away from ``src`` (N, H, W, C).

    Raises
    ------
    ValueError
        If a cropping is negative or nothing is left.
    """
    require(min(cropping[0] + cropping[1]) >= 0, "crop2d", "cropping", "not be negative", cropping, src.shape)
    left_over = sum(cropping[0]) < src.shape[1] and sum(cropping[1]) < src.shape[2]
    require(left_over, "crop2d", "cropping", "leave some of the source", cropping, src.shape)
    return crop(src, cropping)


def crop2d_backward(diff_dst: Array, cropping: Padding) -> Array:
    """Gradient of `crop2d`: zeros for what was taken away."""
    return pad2d(diff_dst, cropping)


def upsample2d(src: Array, factors: Pair, mode: UpsampleMode = "nearest") -> Array:
    """Enlarge ``src`` (N, H, W, C) to (N, H*FH, W*FW, C).

    "nearest" repeats each pixel. "bilinear" interpolates between pixel centres, which lie at half-integer coordinates,
    and repeats the outermost pixel beyond them (PyTorch's ``align_corners=False``).

    Raises
    ------
    ValueError
        If the mode is unknown or a factor is below 1.
    """
    _require_upsample(factors, mode, src.shape)
    if mode == "nearest":
        return src.repeat(factors[0], axis=1).repeat(factors[1], axis=2)
    rows, columns = (_bilinear_matrix(src.shape[1 + axis], factors[axis], src.dtype) for axis in range(2))
    return np.einsum("ph,qw,nhwc->npqc", rows, columns, src)


def upsample2d_backward(diff_dst: Array, factors: Pair, mode: UpsampleMode = "nearest") -> Array:
    """Gradient of `upsample2d`."""
    _require_upsample(factors, mode, diff_dst.shape)
    (n, height, width, channels), (fh, fw) = diff_dst.shape, factors
    if mode == "nearest":
        return diff_dst.reshape(n, height // fh, fh, width // fw, fw, channels).sum(axis=(2, 4))
    rows = _bilinear_matrix(height // fh, fh, diff_dst.dtype)
    columns = _bilinear_matrix(width // fw, fw, diff_dst.dtype)
    return np.einsum("ph,qw,npqc->nhwc", rows, columns, diff_dst)


def permute(src: Array, axes: Shape) -> Array:
    """``src`` with its axes in the order ``axes``, as `numpy.transpose`."""
    return src.transpose(axes)


def permute_backward(diff_dst: Array, axes: Shape) -> Array:
    """Gradient of `permute`: the inverse order."""
    return diff_dst.transpose(np.argsort(axes))


def _padded_indices(src_shape: Shape, padding: Padding, mode: PadMode) -> tuple[Array, Array]:
    """Source row of each padded row, and source column of each padded column."""
    require(mode in ("reflect", "edge"), "pad2d", "mode", "be constant, reflect or edge", mode, src_shape)
    require(min(padding[0] + padding[1]) >= 0, "pad2d", "padding", "not be negative", padding, src_shape)
    fits = max(padding[0]) < src_shape[1] and max(padding[1]) < src_shape[2]
    require(mode != "reflect" or fits, "pad2d", "padding", "be less than what it reflects", padding, src_shape)
    rows, columns = np.arange(src_shape[1]), np.arange(src_shape[2])
    return np.pad(rows, padding[0], mode=mode), np.pad(columns, padding[1], mode=mode)


def _require_upsample(factors: Pair, mode: UpsampleMode, src_shape: Shape) -> None:
    require(mode in ("nearest", "bilinear"), "upsample2d", "mode", "be nearest or bilinear", mode, src_shape)
    require(min(factors) >= 1, "upsample2d", "factors", "be at least 1", factors, src_shape)


def _bilinear_matrix(extent: int, factor: int, dtype: np.dtype[np.generic]) -> Array:
    """Weight of each source pixel in each destination pixel, (extent*factor, extent)."""
    matrix = np.zeros((extent * factor, extent), dtype)
    for destination in range(extent * factor):
        centre = min(max((destination + 0.5) / factor - 0.5, 0.0), extent - 1.0)
        lower = int(centre)
        matrix[destination, lower] += 1 - (centre - lower)
        matrix[destination, min(lower + 1, extent - 1)] += centre - lower
    return matrix
