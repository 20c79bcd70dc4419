"""Recognises activations that a network writes out: x * sigmoid(x), x * clip(x + 3, 0, 6) / 6, ...

    hard_sigmoid(x) = clip(x + 3, 0, 6) / 6 = clip(x / 6 + 1/2, 0, 1)
    silu(x)         = x * sigmoid(x)
    hard_swish(x)   = x * hard_sigmoid(x)
"""

from __future__ import annotations

from math import isclose

from cnnext.graph.graph import Graph, Node, Value
from cnnext.graph.passes.fuse_epilogues import function_of
from cnnext.layers.layer import Layer

Function = tuple[str, tuple[float, ...]]


def fuse_gates(graph: Graph) -> Graph:
    """A copy of the graph in which products of a value with a gate of itself are one activation."""
    readers = graph.consumers()
    outputs = set(graph.outputs)

    def rule(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
        from cnnext.layers.elementwise import Multiply

        if node.epilogue is not None:
            return None
        if isinstance(node.layer, Multiply):
            found = _gated(inputs, 1.0, node.name)
        else:
            # What others read is computed anyway; to compute it twice would part it from the kernel that makes it.
            alone = len(node.inputs) == 1 and len(readers[node.inputs[0]]) == 1 and node.inputs[0] not in outputs
            found = _after_affine(node, inputs, alone)
        return g.apply(found[0], found[1], name=node.name) if found is not None else None

    return graph.rebuild(rule)


def _function(node: Node | None) -> Function | None:
    if node is None or node.epilogue is not None or len(node.inputs) != 1 or node.weights:
        return None
    return function_of(node.layer)


def _gated(factors: list[Value], scale: float, name: str) -> tuple[Layer, Value] | None:
    """The activation ``scale * x * gate(x)``, if the factors are those."""
    from cnnext.layers.activation import HardSwish, SiLU

    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        function = _function(gate.node)
        if function is None or gate.node is None:
            continue
        if function[0] == "sigmoid" and gate.node.inputs[0] is x and scale == 1:
            return SiLU(name=name), x
        slope_offset = _hard_sigmoid(gate.node, function, scale)
        if slope_offset is not None and slope_offset[1] is x and _is_swish_gate(*slope_offset[0]):
            return HardSwish(name=name), x
    return None


def _is_swish_gate(slope: float, offset: float) -> bool:
    return isclose(slope, 1 / 6, rel_tol=1e-6) and isclose(offset, 0.5, rel_tol=1e-6)


def _hard_sigmoid(node: Node, function: Function, scale: float) -> tuple[tuple[float, float], Value] | None:
    """Slope, offset and source of ``scale * node`` as a hard sigmoid."""
    if function[0] == "hard_sigmoid" and scale == 1:
        return (function[1][0], function[1][1]), node.inputs[0]
    inner = _function(node.inputs[0].node)
    before = node.inputs[0].node
    if function[0] == "affine" and function[1][1] == 0 and inner is not None and before is not None:
        return _hard_sigmoid(before, inner, scale * function[1][0]) if inner[0] == "clip" else None
    if function[0] != "clip" or inner is None or inner[0] != "affine" or before is None or scale <= 0:
        return None
    low, high = (bound * scale for bound in function[1])
    if not isclose(low, 0, abs_tol=1e-7) or not isclose(high, 1, rel_tol=1e-6):
        return None
    return (inner[1][0] * scale, inner[1][1] * scale), before.inputs[0]


def _after_affine(node: Node, inputs: list[Value], alone: bool) -> tuple[Layer, Value] | None:
    """An affine function with what stands before it: another one, a clip of one, or a product with one."""
    from cnnext.layers.activation import Affine, HardSigmoid, HardSwish
    from cnnext.layers.elementwise import Multiply

    function = _function(node)
    before = inputs[0].node if len(inputs) == 1 else None
    if function is None or function[0] != "affine" or before is None or before.epilogue is not None:
        return None
    scale, shift = function[1]
    if isinstance(before.layer, Multiply):
        return _gated(before.inputs, scale, node.name) if shift == 0 else None
    inner = _function(before)
    if inner is None:
        return None
    kind, constants = inner
    if kind in ("affine", "hard_swish", "scaled_hard_swish") and alone:
        first, second = constants or (1.0, 0.0)
        layer = Affine if kind == "affine" else HardSwish
        return layer(first * scale, second * scale + shift, name=node.name), before.inputs[0]
    gate = _hard_sigmoid(before, inner, scale) if kind == "clip" and shift == 0 else None
    return (HardSigmoid(*gate[0], name=node.name), gate[1]) if gate is not None else None
