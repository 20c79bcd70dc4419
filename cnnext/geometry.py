"""How windows fit on an image: output sizes, padding, and what a window never reaches."""

from __future__ import annotations

from cnnext.errors import message
from cnnext.layers.attributes import as_int

Pair = tuple[int, int]
PaddingPairs = tuple[Pair, Pair]


def window_extent(kernel: int, dilation: int = 1) -> int:
    """Pixels from the first tap of a window to its last, both included."""
    return (kernel - 1) * dilation + 1


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> Pair:
    """Padding before and after for ``padding="same"``: ceil(size / stride) outputs, the odd pixel after."""
    out = -(-size // stride)
    total = max((out - 1) * stride + window_extent(kernel, dilation) - size, 0)
    return total // 2, total - total // 2


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: str | int | Pair = "valid", dilation: int = 1,
                     ceil_mode: bool = False, strict: bool = False) -> int:
    """Output rows (or columns) of a convolution or pooling window.

    With ``padded = size + before + after`` and ``extent = (kernel - 1) * dilation + 1``:

    ====================  ==========================================================================
    padding               output size
    ====================  ==========================================================================
    ``"same"``            ``ceil(size / stride)``
    ``"valid"``, pairs    ``floor((padded - extent) / stride) + 1``
    with ``ceil_mode``    ``ceil((padded - extent) / stride) + 1``, without a last window that would
                          begin behind the image and its leading padding
    ====================  ==========================================================================

    Parameters
    ----------
    size, kernel, stride, dilation : int
        Of one axis.
    padding : "valid", "same", int or (before, after)
    ceil_mode : bool
        Keep a last window that only partly lies on the padded image.
    strict : bool
        Refuse a size whose division leaves a remainder, so that nothing is ever rounded away.

    Raises
    ------
    ValueError
        If an argument is out of range, the window is larger than the padded image, or ``strict`` is broken.
    """
    where = "conv_output_size"
    size, kernel, stride, dilation = (
        as_int(where, name, value, minimum=1)
        for name, value in (("size", size), ("kernel", kernel), ("stride", stride), ("dilation", dilation))
    )
    return axis_output_size(where, size, kernel, stride, padding, dilation, ceil_mode, strict)


def axis_output_size(where: str, size: int, kernel: int, stride: int, padding: str | int | Pair, dilation: int = 1,
                     ceil_mode: bool = False, strict: bool = False, names: tuple[str, str] = ("kernel", "stride"),
                     context: str = "") -> int:
    """``conv_output_size`` for a layer: errors say ``where``, its ``names`` of kernel and stride, and a ``context``."""
    before, after = axis_padding(where, size, kernel, stride, padding, dilation)
    extent = window_extent(kernel, dilation)
    room = size + before + after - extent
    if room < 0:
        raise ValueError(message(where, names[0], f"fit on the padded source: {size} + {before} + {after} pixels, of "
                                 f"which the window spans {extent}", kernel, context))
    if strict and padding != "same" and room % stride:
        raise ValueError(message(where, names[1], f"divide the {room} steps that the window can move (strict=True)",
                                 stride, context or f"size {size}, window {extent}, padding {(before, after)}"))
    if padding == "same":
        return -(-size // stride)
    out = room // stride + 1
    if ceil_mode and room % stride and out * stride < size + before:
        out += 1
    return out


def axis_padding(where: str, size: int, kernel: int, stride: int, padding: str | int | Pair, dilation: int = 1) -> Pair:
    """Padding of one axis in pixels: before, after."""
    if padding == "same":
        return same_padding(size, kernel, stride, dilation)
    if padding == "valid":
        return 0, 0
    pair = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    try:
        before, after = (as_int(where, "padding", p, minimum=0) for p in pair)
    except ValueError:
        raise ValueError(message(where, "padding", "be 'valid', 'same', a whole number of at least 0 or (before, after)",
                                 padding)) from None
    return before, after


def unreached(size: int, kernel: int, stride: int, padding: Pair, dilation: int, out: int) -> int:
    """Pixels of the image that no window touches: behind the last one, or skipped by strides and dilation.

    Tap k of output o touches pixel ``o * stride + k * dilation - before``. Pixels of one remainder modulo ``stride``
    are numbered by the quotient; there each tap touches ``out`` consecutive ones, and the union of those is counted.
    """
    firsts: dict[int, list[int]] = {}
    for k in range(kernel):
        quotient, remainder = divmod(k * dilation - padding[0], stride)
        firsts.setdefault(remainder, []).append(quotient)
    touched = 0
    for remainder, quotients in firsts.items():
        end, counted = (size - 1 - remainder) // stride + 1, 0
        for first in quotients:
            begin, stop = max(first, counted), min(first + out, end)
            touched += max(stop - begin, 0)
            counted = max(counted, stop)
    return size - touched


def resolve_padding(padding: str | PaddingPairs, size: Pair, kernel: Pair, strides: Pair,
                    dilation: Pair = (1, 1)) -> PaddingPairs:
    """Padding of both axes in pixels: ((top, bottom), (left, right))."""
    if padding == "same":
        return (same_padding(size[0], kernel[0], strides[0], dilation[0]),
                same_padding(size[1], kernel[1], strides[1], dilation[1]))
    if padding == "valid":
        return (0, 0), (0, 0)
    assert not isinstance(padding, str)
    return padding
