"""Writes concatenations that repeat an earlier one as an extension of it: no value is then copied.

DenseNet joins all features so far at every layer: (a, b), (a, b, c), (a, b, c, d). Memory has one place for ``a``, so flat
concatenations copy it into all but one. As ((a, b), c) each lies at the beginning of the next.
"""

from __future__ import annotations

from cnnext.graph.graph import Graph, Node, Value


def nest_concats(graph: Graph) -> Graph:
    """A copy of the graph in which a concatenation begins with the longest earlier one that it repeats."""
    from cnnext.layers.concat import Concat, Join

    if sum(isinstance(node.layer, Concat) for node in graph.nodes) < 2:
        return graph
    # What the original operands and the axis of each concatenation gave; nesting changes the operands of its node.
    made: dict[tuple[int, tuple[Value, ...]], Value] = {}

    def rule(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
        if not isinstance(node.layer, Concat):
            return None
        axis = node.layer.axis % len(inputs[0].shape)
        outputs = None
        for n in range(len(inputs), 1, -1):
            earlier = made.get((axis, tuple(inputs[:n])))
            if earlier is not None:
                rest = inputs[n:]
                outputs = g.apply(Join(axis, name=node.layer.name), earlier, *rest, name=node.name) if rest else [earlier]
                break
        if outputs is None:
            outputs = g.apply(node.layer, *inputs, name=node.name)
        made.setdefault((axis, tuple(inputs)), outputs[0])
        return outputs

    return graph.rebuild(rule)
