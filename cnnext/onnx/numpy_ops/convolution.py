"""Convolution, transposed convolution and col2im in any number of spatial axes: one matrix product for each tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.onnx.numpy_ops.common import (
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    content,
    integers,
    refuse,
    typed,
    widened,
)
from cnnext.onnx.numpy_ops.window import LARGEST, Window, auto_pad_of, pads_of, positive, split_pad, windows
from cnnext.onnx.operator import Operator

Slices = tuple[slice, ...]


def _last(*index: Any) -> Any:
    """Index the last axes."""
    return (..., *index)



def _taps(wins: Sequence[Window]) -> Iterator[tuple[tuple[int, ...], Slices, Slices]]:
    """Taps of all axes together: kernel index, windows, elements."""
    for taps in product(*(list(w.taps()) for w in wins)):
        yield tuple(k for k, _, _ in taps), tuple(o for _, o, _ in taps), tuple(i for _, _, i in taps)


def groups_of(op: Operator, x: tuple[int, ...], w: tuple[int, ...]) -> int:
    """Give `group`, with source and weights of a convolution checked against it."""
    group = op.attributes.get("group", 1)
    if len(x) < 3 or len(w) != len(x):
        raise refuse(op, "W", "have as many axes as X, which has batch, channels and spatial axes", w, f"source shape {x}")
    if not isinstance(group, int) or group < 1 or x[1] != w[1] * group or w[0] % group:
        raise refuse(op, "group", "divide the channels as the weights say", group, f"source shape {x}, weights shape {w}")
    return group


def _kernel_windows(op: Operator, x: tuple[int, ...], w: tuple[int, ...]) -> list[Window]:
    if integers(op, "kernel_shape", w[2:]) != list(w[2:]):
        raise refuse(op, "kernel_shape", "be that of the weights", op.attributes["kernel_shape"], f"weights shape {w}")
    return windows(op, x[2:], w[2:])


def convolve(op: Operator, x: Array, w: Array) -> Array:
    """Convolve (N, C, ...) with (OC, C / group, ...) as the operator's attributes say, in the dtype of both."""
    group = groups_of(op, x.shape, w.shape)
    wins = _kernel_windows(op, x.shape, w.shape)
    xg = x.reshape(x.shape[0], group, -1, *x.shape[2:])
    wg = w.reshape(group, -1, *w.shape[1:])
    counts = tuple(window.count for window in wins)
    y = np.zeros((x.shape[0], group, wg.shape[1], *counts), x.dtype)
    for k, o, i in _taps(wins):
        patch = xg[_last(*i)]
        rows = patch.reshape(*patch.shape[:3], -1)
        weights = wg[_last(*k)]
        values = weights * rows if weights.shape[-1] == 1 else weights @ rows  # NumPy's matmul of width 1 is slow
        y[_last(*o)] += values.reshape(*y.shape[:3], *patch.shape[3:])
    return y.reshape(x.shape[0], w.shape[0], *counts)


def _bias(y: Array, b: Array | None) -> Array:
    return y if b is None else y + b.astype(y.dtype, copy=False).reshape((-1,) + (1,) * (y.ndim - 2))


def _conv(op: Operator, x: Array, w: Array, b: Array | None = None) -> Array:
    if x.dtype != w.dtype:
        raise TypeError(message(op.title, "inputs", "have one dtype", [x.dtype, w.dtype]))
    return _bias(convolve(op, widened(x), widened(w)), b).astype(x.dtype, copy=False)


def conv_shape(op: Operator, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a convolution's result."""
    groups_of(op, x, w)
    return (x[0], w[0], *(window.count for window in _kernel_windows(op, x, w)))


def _conv_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, x), (_, w) = typed(types, 0), typed(types, 1)
    return [(dtype, conv_shape(op, x, w))]


# Transposed ---------------------------------------------------------------------------------------------------------

def _transposed_windows(op: Operator, x: tuple[int, ...], w: tuple[int, ...]) -> list[Window]:
    """Windows over the destination, one for each element of the source."""
    group = op.attributes.get("group", 1)
    if len(x) < 3 or len(w) != len(x):
        raise refuse(op, "W", "have as many axes as X, which has batch, channels and spatial axes", w, f"source shape {x}")
    if not isinstance(group, int) or group < 1 or x[1] != w[0] or w[0] % group:
        raise refuse(op, "group", "divide the channels, which weights and source share", group, f"shapes {x}, {w}")
    rank, mode = len(x) - 2, auto_pad_of(op)
    strides, dilations = positive(op, "strides", rank), positive(op, "dilations", rank)
    extra, explicit = integers(op, "output_padding", [0] * rank, rank), integers(op, "output_shape")
    if explicit and len(explicit) >= rank:
        explicit = explicit[-rank:]  # old files name batch and channels too
    if integers(op, "kernel_shape", w[2:]) != list(w[2:]):
        raise refuse(op, "kernel_shape", "be that of the weights", op.attributes["kernel_shape"], f"weights shape {w}")
    if min(extra) < 0 or max(extra) > LARGEST:
        raise refuse(op, "output_padding", f"lie in [0, {LARGEST}]", extra)
    pads = pads_of(op, rank) if mode == "NOTSET" and not explicit else [(0, 0)] * rank
    result = []
    for axis in range(rank):
        size, s, d, k, (before, after) = x[axis + 2], strides[axis], dilations[axis], w[axis + 2], pads[axis]
        full = s * (size - 1) + extra[axis] + (k - 1) * d + 1
        extent = full - before - after
        if explicit or mode.startswith("SAME"):
            extent = explicit[axis] if explicit else size * s
            # A target beyond the full extent is padded with zeros at the end.
            before, after = split_pad(mode, max(0, full - extent))
        if extent < 1 or extent > full + LARGEST:
            raise refuse(op, "output_shape", "be positive and near what kernel and strides give", extent, f"shapes {x}, {w}")
        result.append(Window(extent, k, s, d, before, after, size))
    return result


def _conv_transpose(op: Operator, x: Array, w: Array, b: Array | None = None) -> Array:
    wins = _transposed_windows(op, x.shape, w.shape)
    group = op.attributes.get("group", 1)
    xg = widened(x).reshape(x.shape[0], group, -1, *x.shape[2:])
    wg = widened(w).reshape(group, -1, *w.shape[1:]).swapaxes(1, 2)
    y = np.zeros((x.shape[0], group, wg.shape[1], *(window.size for window in wins)), xg.dtype)
    for k, i, o in _taps(wins):  # the windows are the source's elements
        patch = xg[_last(*i)]
        values = wg[_last(*k)] @ patch.reshape(*patch.shape[:3], -1)
        y[_last(*o)] += values.reshape(*y.shape[:3], *patch.shape[3:])
    return _bias(y.reshape(x.shape[0], -1, *y.shape[3:]), b).astype(x.dtype, copy=False)


def _conv_transpose_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, x), (_, w) = typed(types, 0), typed(types, 1)
    wins = _transposed_windows(op, x, w)
    return [(dtype, (x[0], w[1] * op.attributes.get("group", 1), *(window.size for window in wins)))]


def _col2im_windows(op: Operator, x: tuple[int, ...], image: Array, block: Array) -> list[Window]:
    extents, kernel = image.tolist(), block.tolist()
    rank = len(extents)
    if len(x) != 3 or len(kernel) != rank or min(extents) < 1 or min(kernel) < 1 or max(kernel) > LARGEST:
        raise refuse(op, "block_shape", "be positive, one extent for each of the image", kernel, f"image shape {extents}")
    strides, dilations = positive(op, "strides", rank), positive(op, "dilations", rank)
    result = []
    for n, k, s, d, (before, after) in zip(extents, kernel, strides, dilations, pads_of(op, rank), strict=True):
        result.append(Window(n, k, s, d, before, after, (n + before + after - (k - 1) * d - 1) // s + 1))
    if min(w.count for w in result) < 1 or prod(w.count for w in result) != x[2] or x[1] % prod(kernel):
        raise refuse(op, "image_shape", "give the blocks that the input has", extents, f"source shape {x}")
    return result


def _col2im(op: Operator, x: Array, image: Array, block: Array) -> Array:
    wins = _col2im_windows(op, x.shape, image, block)
    columns = x.reshape(x.shape[0], -1, *(w.kernel for w in wins), *(w.count for w in wins))
    y = np.zeros((*columns.shape[:2], *(w.size for w in wins)), x.dtype)
    for k, o, i in _taps(wins):
        y[_last(*i)] += columns[_last(*k, *o)]
    return y


def _col2im_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    (dtype, x), image, block = typed(types, 0), content(contents, 1), content(contents, 2)
    if image is None or block is None:
        return None
    wins = _col2im_windows(op, x, image, block)
    return [(dtype, (x[0], x[1] // prod(w.kernel for w in wins), *(w.size for w in wins)))]


OPERATORS: dict[str, Function] = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Col2Im": _col2im}
RULES: dict[str, Rule] = {"Conv": _conv_rule, "ConvTranspose": _conv_transpose_rule, "Col2Im": _col2im_rule}
