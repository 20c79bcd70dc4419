"""ReduceMean and its relatives."""

from __future__ import annotations

from cnnext.graph.graph import Value
from cnnext.layers.pooling import GlobalAvgPool2D
from cnnext.onnx.site import Site
from cnnext.onnx.support import Rule


def reduce_mean(s: Site) -> Value | None:
    shape = s.shape(0)
    if len(shape) != 4 or s.axes(1, 4) not in ((2, 3), (3, 2)):
        return None
    y = s.apply(GlobalAvgPool2D(data_format="channels_first", name=s.name), s.value(0))
    return s.reshape(y, (*shape[:2], 1, 1) if s.attribute("keepdims", 1) else shape[:2])


RULES: dict[str, Rule] = {"ReduceMean": reduce_mean}
