"""Moves elementwise functions and residual additions into the kernel that makes their argument."""

from __future__ import annotations

from cnnext._native.executor import UNARY
from cnnext.errors import PluginError, unknown
from cnnext.graph.graph import Epilogue, Graph, Node, Value
from cnnext.layers.elementwise import Add
from cnnext.layers.layer import Layer
from cnnext.plugins import contained


def fuse_epilogues(graph: Graph) -> Graph:
    """A copy of the graph in which a node absorbs the additions and functions that alone read its result."""
    readers = graph.consumers()
    outputs = set(graph.outputs)
    order = {node: i for i, node in enumerate(graph.nodes)}
    absorbed_by: dict[Node, Node] = {}
    heads: dict[Node, tuple[Epilogue, Value]] = {}
    for node in graph.nodes:
        if not node.layer.accepts_epilogue or node in absorbed_by or len(node.outputs) != 1:
            continue
        epilogue, last = node.epilogue or Epilogue(), node.output
        while last not in outputs and len(readers.get(last, [])) == 1:
            follower = readers[last][0]
            grown = _absorb(epilogue, follower, last)
            if grown is None or _comes_too_late(grown.add, node, order, absorbed_by):
                break
            absorbed_by[follower] = node
            epilogue, last = grown, follower.output
        if last is not node.output:
            heads[node] = (epilogue, last)
    return _rewrite(graph, heads)


def _absorb(epilogue: Epilogue, follower: Node, value: Value) -> Epilogue | None:
    """The epilogue with ``follower`` appended, or None where the order + add, clip, function does not allow it."""
    names = [*epilogue.names, type(follower.layer).__name__]
    if type(follower.layer) is Add:
        if len(follower.inputs) != 2 or epilogue.add is not None or epilogue.clips or epilogue.post is not None:
            return None
        other = follower.inputs[0] if follower.inputs[1] is value else follower.inputs[1]
        if other is value or other.shape != value.shape:
            return None
        return Epilogue(other, epilogue.low, epilogue.high, None, names)
    function = function_of(follower.layer)
    if function is None or epilogue.post is not None or len(follower.inputs) != 1:
        return None
    name, constants = function
    if name == "clip":
        # clip(clip(v, a, b), c, d) = clip(v, clip(a, c, d), clip(b, c, d))
        low, high = constants
        return Epilogue(epilogue.add, min(max(epilogue.low, low), high), min(max(epilogue.high, low), high), None, names)
    return Epilogue(epilogue.add, epilogue.low, epilogue.high, (name, constants), names)


def function_of(layer: Layer) -> tuple[str, tuple[float, ...]] | None:
    """What ``as_epilogue`` says, once it is known to be a function that kernels have."""
    with contained(layer, "as_epilogue"):
        found = layer.as_epilogue()
        if found is not None:
            name, constants = found
            if name not in UNARY:
                raise PluginError(f"{layer.where}: {unknown('function', name, UNARY)}")
            found = name, tuple(float(c) for c in constants)
    return found


def _comes_too_late(add: Value | None, node: Node, order: dict[Node, int], absorbed_by: dict[Node, Node]) -> bool:
    """Whether the value to be added is made after the node that would add it."""
    if add is None or add.node is None:
        return False
    maker = absorbed_by.get(add.node, add.node)
    return order[maker] >= order[node]


def _rewrite(graph: Graph, heads: dict[Node, tuple[Epilogue, Value]]) -> Graph:
    for node, (epilogue, last) in heads.items():
        maker = last.node
        node.epilogue = epilogue
        node.outputs = [last]
        assert maker is not None
        maker.outputs = []
        last.node = node
    graph.order()
    return graph
