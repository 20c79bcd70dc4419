"""Cancels transposes that undo each other and moves them through elementwise layers until they meet."""

from __future__ import annotations

from cnnext.graph.graph import Graph, Node, Value


def cancel_permutes(graph: Graph) -> Graph:
    """A copy of the graph in which pairs of inverse permutations are gone.

    An elementwise function of one value commutes with a permutation, so the permutation sinks below it:
    f(permute(x)) = permute(f(x)). Two permutations in a row become one, and the identity vanishes.
    """
    from cnnext.layers.permute import Permute

    def rule(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
        before = inputs[0].node if inputs else None
        if before is None or not isinstance(before.layer, Permute):
            return None
        original = before.inputs[0]
        if isinstance(node.layer, Permute):
            axes = tuple(before.layer.axes[a] for a in node.layer.axes)
            if axes == tuple(range(len(axes))):
                return [original]
            return g.apply(Permute(axes, name=node.name), original)
        if len(inputs) == 1 and not node.weights and node.layer.as_epilogue() is not None:
            return g.apply(before.layer, *g.apply(node.layer, original, name=node.name), name=before.name)
        return None

    return graph.rebuild(rule)
