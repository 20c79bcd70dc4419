"""ReduceMean and its relatives."""

from __future__ import annotations

from cnnext.graph.graph import Value
from cnnext.layers.reduce import (
    ReduceL1,
    ReduceL2,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    ReduceSumSquare,
    Reduction,
)
from cnnext.onnx.site import Site
from cnnext.onnx.support import Rule


def _reduce(kind: type[Reduction]) -> Rule:
    def rule(s: Site) -> Value | None:
        rank = len(s.shape(0))
        axes = s.axes(1, rank)
        if not axes:
            if s.attribute("noop_with_empty_axes", 0):
                return None
            axes = tuple(range(rank))
        return s.apply(kind(axes, bool(s.attribute("keepdims", 1)), name=s.name), s.value(0)) if rank else None

    return rule


RULES: dict[str, Rule] = {f"{kind.__name__}": _reduce(kind) for kind in (
    ReduceMean, ReduceSum, ReduceMax, ReduceMin, ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSumExp, ReduceProd)}
