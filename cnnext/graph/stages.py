"""Graphs whose shapes depend on what is computed: planned and run in stages.

A layer's rule may find that it cannot go on without the contents of a value that nobody knows before the run: the target
of a reshape, the boxes that a suppression leaves. It raises ``ContentsNeeded``, or ``DataDependent`` when it has to be
computed before anything behind it can be planned. What does not depend on such nodes is the first stage, with a plan
like any other; the rest is a graph of its own, whose inputs are what the first stage made, planned when those are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cnnext.graph.graph import Graph, Node, Value

Evaluate = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


@dataclass
class LateNode:
    """A node that waits for data: for the contents of some inputs, or to be computed by a function."""

    node: Node
    contents: tuple[Value, ...] = ()
    evaluate: Evaluate | None = None


class WaitsForData(Exception):
    """A rule cannot plan its node yet."""

    def late(self, node: Node) -> LateNode:
        """The node with what it waits for."""
        return LateNode(node)


class ContentsNeeded(WaitsForData):
    """A rule needs the contents of these inputs of its node, by index."""

    def __init__(self, indices: Sequence[int]):
        super().__init__(f"the shape of the result depends on the contents of inputs {list(indices)}")
        self.indices = tuple(indices)

    def late(self, node: Node) -> LateNode:
        return LateNode(node, tuple(node.inputs[i] for i in self.indices))


class DataDependent(WaitsForData):
    """The shapes of a node's outputs depend on the contents of its inputs: ``evaluate`` computes it when those are there."""

    def __init__(self, evaluate: Evaluate):
        super().__init__("the shape of the result depends on the data")
        self.evaluate = evaluate

    def late(self, node: Node) -> LateNode:
        return LateNode(node, evaluate=self.evaluate)


@dataclass
class Rest:
    """What remains of a graph after a stage, in terms of the original graph's values.

    Attributes
    ----------
    graph : Graph
        The original nodes that remain. Its inputs are values that the stage made or was given, in this order, then the
        outputs of ``eager``.
    eager : list of LateNode
        To be computed between the stages, from the stage's results.
    contents : set of int
        Inputs of ``graph`` whose contents the next stage takes as constants.
    """

    graph: Graph
    eager: list[LateNode]
    contents: set[int]

    @property
    def made(self) -> list[Value]:
        """What the stage before has to make or pass on."""
        return self.graph.inputs[: len(self.graph.inputs) - sum(len(late.node.outputs) for late in self.eager)]

    def feeds(self, results: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The inputs of ``graph`` from the results of the stage before, after computing what is eager."""
        known = dict(zip(self.made, results, strict=True))
        for late in self.eager:
            assert late.evaluate is not None
            arrays = [v.data if v.data is not None else known[v] for v in late.node.inputs]
            made = (np.ascontiguousarray(a).reshape(np.shape(a)) for a in late.evaluate(arrays))
            known.update(zip(late.node.outputs, made, strict=True))
        return [known[v] for v in self.graph.inputs]


def remaining(graph: Graph, late: Sequence[LateNode], known: Iterable[Value] = ()) -> Rest:
    """The graph of what is late, with the values at its border as inputs.

    ``graph`` is the original one, of which the contents of some inputs are ``known`` and must stay so.
    """
    made_late = {v for item in late for v in item.node.outputs}
    border: dict[Value, None] = {}
    for item in late:
        border.update(dict.fromkeys(v for v in item.node.reads if v not in made_late and not v.is_persistent))
    border.update(dict.fromkeys(v for v in graph.outputs if v not in made_late))
    eager = [item for item in late if item.evaluate is not None and all(v not in made_late for v in item.node.inputs)]
    computed = [item.node for item in eager]
    inputs = [*border, *(v for node in computed for v in node.outputs)]
    nodes = [item.node for item in late if item.node not in computed]
    needed = {*known, *(v for item in late for v in item.contents)}
    rest = Graph(inputs, graph.outputs, nodes, graph.training)
    return Rest(rest, eager, {i for i, v in enumerate(inputs) if v in needed})
