"""Folds a layer that is x * scale + shift per channel (``as_affine``) into the weights of the layer before it."""

from __future__ import annotations

from collections.abc import Iterable

from cnnext.graph.graph import Graph, Node, Value
from cnnext.layers.layer import Layer
from cnnext.plugins import contained


def fold_affine(graph: Graph) -> Graph:
    """A copy of the graph without the affine layers whose producer can take their scale and shift.

    In training only where both are frozen: what is folded then is computed once, as in inference.
    """
    readers = graph.consumers()
    outputs = set(graph.outputs)

    def rule(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
        data = [i for i, v in enumerate(node.inputs) if not v.is_fixed]
        if len(data) != 1 or node.inputs[data[0]] in outputs or len(readers[node.inputs[data[0]]]) != 1:
            return None
        source = inputs[data[0]]
        producer = source.node
        if producer is None or type(producer.layer).fold_affine is Layer.fold_affine:
            return None
        if producer.epilogue is not None or len(producer.outputs) != 1:
            return None
        if graph.training and not _frozen(graph, [*node.reads, *producer.weights.values()]):
            return None
        with contained(node.layer, "as_affine"):
            affine = node.layer.as_affine(g, node)
            if affine is None:
                return None
            scale, shift = affine
        with contained(producer.layer, "fold_affine"):
            weights = producer.layer.fold_affine(g, producer, scale, shift)
        if weights is None:
            return None
        return [g.apply1(producer.layer, *producer.inputs, weights=weights, name=producer.name)]

    return graph.rebuild(rule)


def _frozen(graph: Graph, values: Iterable[Value]) -> bool:
    """Whether all parameters that the fixed ones of the values are made of are frozen."""
    left = [v for v in values if v.is_fixed]
    while left:
        value = left.pop()
        if value.parameter is not None and value.parameter not in graph.frozen:
            return False
        left += value.node.reads if value.node is not None else []
    return True
