"""The window that convolutions and pools slide over the rows and columns of a channels-last tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

NO_PADDING: Padding = ((0, 0), (0, 0))


def require(
    condition: bool, where: str, argument: str, rule: str, value: object, src_shape: Shape | None = None
) -> None:
    """Raise ValueError in the project's wording unless ``condition`` holds."""
    if not condition:
        source = "" if src_shape is None else f" (source shape {src_shape})"
        raise ValueError(f"{where}: `{argument}` must {rule}. Received {argument}={value}{source}.")


def crop(src: Array, padding: Padding) -> Array:
    """Take ``padding`` rows and columns away from each side of ``src`` (N, H, W, C)."""
    (top, bottom), (left, right) = padding
    return src[:, top : src.shape[1] - bottom, left : src.shape[2] - right]


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window; every pair is (rows, columns).

    Raises
    ------
    ValueError
        If an extent, a stride or a dilation is below 1, or a padding is negative.
    """

    where: str
    kernel: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        for argument in ("kernel", "strides", "dilation"):
            pair = getattr(self, argument)
            require(len(pair) == 2 and min(pair) >= 1, self.where, argument, "be two integers of at least 1", pair)
        smallest = min(*self.padding[0], *self.padding[1])
        require(smallest >= 0, self.where, "padding", "not be negative", self.padding)

    @property
    def extent(self) -> Pair:
        """Rows and columns from the first tap to the last."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    def padded_size(self, src_shape: Shape) -> Pair:
        """Rows and columns of the padded source."""
        (top, bottom), (left, right) = self.padding
        return src_shape[1] + top + bottom, src_shape[2] + left + right

    def output_size(self, src_shape: Shape) -> Pair:
        """Rows and columns of whole windows, ``floor((padded - extent) / stride) + 1``."""
        (height, width), (eh, ew), (sh, sw) = self.padded_size(src_shape), self.extent, self.strides
        fits = eh <= height and ew <= width
        require(
            fits, self.where, "kernel", f"span no more than the padded source {(height, width)}", (eh, ew), src_shape
        )
        return (height - eh) // sh + 1, (width - ew) // sw + 1

    def pad(self, src: Array, output_size: Pair, value: float = 0.0) -> Array:
        """``src`` with its padding, and below and right of it what the last window reaches beyond."""
        (height, width), (eh, ew), (sh, sw) = self.padded_size(src.shape), self.extent, self.strides
        more_rows = max(0, (output_size[0] - 1) * sh + eh - height)
        more_columns = max(0, (output_size[1] - 1) * sw + ew - width)
        (top, bottom), (left, right) = self.padding
        widths = ((0, 0), (top, bottom + more_rows), (left, right + more_columns), (0, 0))
        return np.pad(src, widths, constant_values=value)

    def unpad(self, padded: Array, src_shape: Shape) -> Array:
        """Undo `pad`: the rows and columns of ``padded`` that belong to the source."""
        (top, _), (left, _) = self.padding
        return padded[:, top : top + src_shape[1], left : left + src_shape[2]]

    def taps(self, output_size: Pair) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
        """For each tap, in (kh, kw) order, the pixels of the padded source it sees: a (N, OH, OW, C) view."""
        (sh, sw), (dh, dw) = self.strides, self.dilation
        for kh in range(self.kernel[0]):
            rows = slice(kh * dh, kh * dh + (output_size[0] - 1) * sh + 1, sh)
            for kw in range(self.kernel[1]):
                columns = slice(kw * dw, kw * dw + (output_size[1] - 1) * sw + 1, sw)
                yield kh, kw, (slice(None), rows, columns)
