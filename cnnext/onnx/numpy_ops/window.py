"""Sliding windows of convolution and pooling, axis by axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnext.onnx.numpy_ops.common import integers, refuse
from cnnext.onnx.operator import Operator

LARGEST = 1 << 16  # kernels, strides, dilations and pads beyond that are mistakes, and loops over them would not end


@dataclass(frozen=True)
class Window:
    """One axis: window `o` of `count` reads element `o * stride - before + k * dilation` at its tap `k`."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    count: int

    @property
    def reach(self) -> int:
        """Elements from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def taps(self) -> Iterator[tuple[int, slice, slice]]:
        """Each tap that meets elements: which, the windows where it does, the elements it meets there."""
        for k in range(self.kernel):
            start = k * self.dilation - self.before
            low = max(0, -(start // self.stride))
            high = min(self.count, (self.size - 1 - start) // self.stride + 1)
            if low < high:
                first, last = low * self.stride + start, (high - 1) * self.stride + start
                yield k, slice(low, high), slice(first, last + 1, self.stride)

    def reads(self, o: int) -> slice:
        """Elements that window `o` reads."""
        start = o * self.stride - self.before
        first = max(0, -(start // self.dilation))
        last = min(self.kernel, (self.size - 1 - start) // self.dilation + 1)
        if first >= last:
            return slice(0, 0)
        return slice(start + first * self.dilation, start + (last - 1) * self.dilation + 1, self.dilation)


def pads_of(op: Operator, rank: int) -> list[tuple[int, int]]:
    """Give the attribute `pads` as (before, after) of each axis."""
    pads = integers(op, "pads", [0] * (2 * rank), 2 * rank)
    if min(pads, default=0) < 0 or max(pads, default=0) > LARGEST:
        raise refuse(op, "pads", f"lie in [0, {LARGEST}]", pads)
    return list(zip(pads[:rank], pads[rank:], strict=True))


def positive(op: Operator, name: str, rank: int, default: Sequence[int] | None = None) -> list[int]:
    """Give a list attribute of one positive int for each axis."""
    values = integers(op, name, [1] * rank if default is None else default, rank)
    if min(values, default=1) < 1 or max(values, default=1) > LARGEST:
        raise refuse(op, name, f"lie in [1, {LARGEST}]", values)
    return values


def auto_pad_of(op: Operator) -> str:
    """Give the attribute `auto_pad`, checked."""
    mode = op.attributes.get("auto_pad", "NOTSET") or "NOTSET"
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise refuse(op, "auto_pad", "be 'NOTSET', 'VALID', 'SAME_UPPER' or 'SAME_LOWER'", mode)
    return mode


def split_pad(mode: str, total: int) -> tuple[int, int]:
    """Halve a padding; the odd element goes to the end under SAME_UPPER, else to the beginning."""
    half = total // 2
    return (half, total - half) if mode == "SAME_UPPER" else (total - half, half)


def windows(op: Operator, extents: Sequence[int], kernel: Sequence[int]) -> list[Window]:
    """Give the windows of a convolution or pooling over the spatial `extents`."""
    rank, mode = len(extents), auto_pad_of(op)
    kernel = positive(op, "kernel_shape", rank, kernel)
    strides, dilations = positive(op, "strides", rank), positive(op, "dilations", rank)
    pads = pads_of(op, rank) if mode == "NOTSET" else [(0, 0)] * rank
    result = []
    for size, k, s, d, (before, after) in zip(extents, kernel, strides, dilations, pads, strict=True):
        reach = (k - 1) * d + 1
        if mode.startswith("SAME"):
            count = -(-size // s)
            before, after = split_pad(mode, max(0, (count - 1) * s + reach - size))
        else:
            room = size + before + after - reach
            count = room // s + 1
            if op.attributes.get("ceil_mode", 0) and room % s and count * s < size + before:
                count += 1  # unless that window would begin in the padding behind
        if count < 1:
            raise refuse(op, "kernel_shape", "fit into the padded source", kernel, f"spatial shape {tuple(extents)}")
        result.append(Window(size, k, s, d, before, after, count))
    return result
