"""MaxPool, AveragePool, LpPool, and their global forms."""

from __future__ import annotations

from math import prod

from cnnext.geometry import window_extent
from cnnext.graph.graph import Value
from cnnext.layers.layer import Layer
from cnnext.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, LpPool2D, MaxPool2D
from cnnext.onnx.rules.convolution import as_image, as_sequence, padding, pair
from cnnext.onnx.site import Site

_LARGEST_WINDOW = 1 << 18    # a plan lists the taps of a window; NumPy walks one axis after the other


def _pool(s: Site, kind: type[Layer], **options: object) -> Value | None:
    shape = s.shape(0)
    if len(shape) not in (3, 4) or len(s.op.wanted) > 1 and any(s.op.wanted[1:]):
        return None
    rank = len(shape) - 2
    x = as_image(s, s.value(0))
    window = pair(s, "kernel_shape", 1, rank)
    strides, dilation = pair(s, "strides", 1, rank), pair(s, "dilations", 1, rank)
    pads = padding(s, [n or 0 for n in x.shape[2:]], window, strides, dilation)
    extent = [window_extent(k, d) for k, d in zip(window, dilation, strict=True)]
    if prod(window) > _LARGEST_WINDOW or pads is None or any(max(p) >= e for p, e in zip(pads, extent, strict=True)):
        return None
    layer = kind(window, strides=strides, padding=pads, dilation=dilation, data_format="channels_first",
                 ceil_mode=bool(s.attribute("ceil_mode", 0)), name=s.name, **options)
    return as_sequence(s, s.apply(layer, x), len(shape))


def max_pool(s: Site) -> Value | None:
    return _pool(s, MaxPool2D)


def average_pool(s: Site) -> Value | None:
    return _pool(s, AvgPool2D, count_include_pad=bool(s.attribute("count_include_pad", 0)))


def lp_pool(s: Site) -> Value | None:
    power = float(s.attribute("p", 2))
    return _pool(s, LpPool2D, power=power) if power >= 1 else None


def _global(s: Site, kind: type[Layer]) -> Value | None:
    shape = s.shape(0)
    if len(shape) not in (3, 4):
        return None
    x = as_image(s, s.value(0))
    y = s.apply(kind(data_format="channels_first", name=s.name), x)
    return s.reshape(y, (*shape[:2], *(1,) * (len(shape) - 2)))


RULES = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": lambda s: _global(s, GlobalAvgPool2D),
    "GlobalMaxPool": lambda s: _global(s, GlobalMaxPool2D),
}
