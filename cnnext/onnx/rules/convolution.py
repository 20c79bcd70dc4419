"""Conv, ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnext.geometry import same_padding, window_extent
from cnnext.graph.graph import Value
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.conv2d_transpose import Conv2DTranspose
from cnnext.layers.depthwise_conv2d import DepthwiseConv2D
from cnnext.onnx.site import Site

Pair = tuple[int, int]


def conv(s: Site) -> Value | None:
    shape, kernel = s.shape(0), s.shape(1)
    if len(shape) not in (3, 4) or len(kernel) != len(shape):
        return None
    groups = int(s.attribute("group", 1))
    if kernel[1] * groups != shape[1] or groups < 1 or kernel[0] % groups:
        raise s.error("W", f"have {shape[1]} / group channels, and filters that group={groups} divides", kernel)
    x, weights = as_image(s, s.value(0)), as_image(s, s.value(1))
    window = tuple(n or 0 for n in weights.shape[2:])
    image = tuple(n or 0 for n in x.shape[2:])
    strides, dilation = (pair(s, name, 1, len(shape) - 2) for name in ("strides", "dilations"))
    pads = padding(s, image, window, strides, dilation)
    if pads is None:
        return None
    bias = s.value(2) if s.has(2) else None
    options: dict[str, Any] = dict(strides=strides, dilation=dilation, padding=pads, use_bias=bias is not None,
                                   data_format="channels_first", name=s.name)
    if groups == shape[1] > 1:
        multiplier = kernel[0] // groups
        by_channel = s.reshape(weights, (groups, multiplier, *window))
        y = s.apply(DepthwiseConv2D(window, depth_multiplier=multiplier, **options), x,
                    weights=s.transpose(by_channel, (2, 3, 0, 1)), bias=bias)
    else:
        y = s.apply(Conv2D(kernel[0], window, groups=groups, **options), x,
                    weights=s.transpose(weights, (2, 3, 1, 0)), bias=bias)
    return as_sequence(s, y, len(shape))


def conv_transpose(s: Site) -> Value | None:
    shape, kernel = s.shape(0), s.shape(1)
    if len(shape) not in (3, 4) or len(kernel) != len(shape):
        return None
    groups, rank = int(s.attribute("group", 1)), len(shape) - 2
    if kernel[0] != shape[1] or groups < 1 or shape[1] % groups:
        raise s.error("W", f"have {shape[1]} channels, which group={groups} divides", kernel)
    x, weights = as_image(s, s.value(0)), as_image(s, s.value(1))
    window = tuple(n or 0 for n in weights.shape[2:])
    image = tuple(n or 0 for n in x.shape[2:])
    strides, dilation = (pair(s, name, 1, rank) for name in ("strides", "dilations"))
    extra = pair(s, "output_padding", 0, rank)
    pads = _transposed_padding(s, image, window, strides, dilation, extra)
    if pads is None or any(e >= max(t, d) for e, t, d in zip(extra, strides, dilation, strict=True)):
        return None
    bias = s.value(2) if s.has(2) else None
    layer = Conv2DTranspose(kernel[1] * groups, window, strides=strides, padding=pads, dilation=dilation,
                            output_padding=extra, groups=groups, use_bias=bias is not None,
                            data_format="channels_first", name=s.name)
    return as_sequence(s, s.apply(layer, x, weights=s.transpose(weights, (2, 3, 1, 0)), bias=bias), len(shape))


def _transposed_padding(s: Site, image: Sequence[int], window: Sequence[int], strides: Pair, dilation: Pair,
                        extra: Pair) -> tuple[Pair, Pair] | None:
    """What is cut from the full result; None where it would have to grow by more than ``output_padding``."""
    wanted = s.attribute("output_shape")
    auto = s.attribute("auto_pad", "NOTSET")
    if wanted is None and auto in ("NOTSET", "VALID"):
        given = explicit_padding(s, len(s.shape(0)) - 2) if auto == "NOTSET" else ((0, 0), (0, 0))
        return given if min(p for pads in given for p in pads) >= 0 else None
    sizes = [1] * (2 - len(wanted or image)) + [int(n) for n in wanted] if wanted is not None else [
        n * t for n, t in zip(image, strides, strict=True)]
    sizes = sizes[-2:]
    pads = []
    for n, size, k, t, d, e in zip(image, sizes, window, strides, dilation, extra, strict=True):
        total = t * (n - 1) + e + window_extent(k, d) - size
        if total < 0:
            return None
        half = total // 2
        pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    return pads[0], pads[1]


def as_image(s: Site, value: Value) -> Value:
    """(N, C, L) as (N, C, 1, L)."""
    shape = value.shape
    return s.reshape(value, (*shape[:2], 1, shape[2])) if len(shape) == 3 else value


def as_sequence(s: Site, value: Value, rank: int) -> Value:
    """(N, C, 1, L) as (N, C, L) where the operator's rank is 3."""
    shape = value.shape
    return s.reshape(value, (*shape[:2], shape[3])) if rank == 3 else value


def pair(s: Site, name: str, default: int, rank: int) -> Pair:
    """An attribute of one number per spatial axis as (rows, columns); a sequence is an image of one row."""
    given = [int(n) for n in s.attribute(name) or [default] * rank]
    if len(given) != rank or min(given) < min(default, 1):
        raise s.error(name, f"be {rank} whole numbers of at least {min(default, 1)}", given)
    return (default, given[0]) if rank == 1 else (given[0], given[1])


def explicit_padding(s: Site, rank: int) -> tuple[Pair, Pair]:
    """The attribute ``pads``, all that is before the axes, then all behind, as pairs of rows and of columns."""
    given = [int(n) for n in s.attribute("pads") or [0] * (2 * rank)]
    if len(given) != 2 * rank:
        raise s.error("pads", f"be {2 * rank} whole numbers", given)
    pads = [(given[i], given[rank + i]) for i in range(rank)]
    return ((0, 0), pads[0]) if rank == 1 else (pads[0], pads[1])


def padding(s: Site, image: Sequence[int], window: Sequence[int], strides: Pair,
            dilation: Pair) -> tuple[Pair, Pair] | None:
    """Padding of a window operator in pixels, ``auto_pad`` worked out; None where it is negative."""
    auto, rank = s.attribute("auto_pad", "NOTSET"), len(s.shape(0)) - 2
    if auto == "VALID":
        return (0, 0), (0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = [same_padding(*axis) for axis in zip(image, window, strides, dilation, strict=True)]
        if auto == "SAME_LOWER":
            pads = [(after, before) for before, after in pads]
    elif auto == "NOTSET":
        pads = list(explicit_padding(s, rank))
    else:
        raise s.error("auto_pad", "be NOTSET, VALID, SAME_UPPER or SAME_LOWER", auto)
    return (pads[0], pads[1]) if min(p for both in pads for p in both) >= 0 else None


RULES = {"Conv": conv, "ConvTranspose": conv_transpose}
