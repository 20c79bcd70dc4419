"""The gradient pass: appends the nodes of back-propagation to a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.graph.graph import FLOAT32, Graph, Node, Value, constant
from cnnext.plugins import contained

if TYPE_CHECKING:
    from cnnext.layers.layer import Gradients


def add_gradients(graph: Graph, outputs: Sequence[Value], wrt: Iterable[Value],
                  diff_outputs: Sequence[Value] | None = None) -> dict[Value, Value]:
    """Append the nodes that compute the gradients of ``outputs`` and return the gradient of each value in ``wrt``.

    Walks the nodes backwards; each layer's ``gradient`` rule appends what it needs, and the gradients of a value that
    several nodes read are added. What nobody needs is dropped when the graph is next ordered.

    Parameters
    ----------
    graph : Graph
        Nodes in order; new ones are appended.
    outputs : list of Value
        What is differentiated: a scalar loss, or any values with ``diff_outputs``.
    wrt : iterable of Value
        Inputs or parameter values. One that the outputs do not depend on is missing from the result.
    diff_outputs : list of Value, optional
        Gradients to start from; 1 for a scalar.
    """
    wrt = list(wrt)
    if diff_outputs is None:
        diff_outputs = [constant(np.ones([int(n or 1) for n in v.shape], np.float32), "one") for v in outputs]
    diffs: dict[Value, list[Value]] = {}
    for value, diff in zip(outputs, diff_outputs, strict=True):
        diffs.setdefault(value, []).append(diff)
    needed = _depending_on(graph.nodes, wrt)
    for node in reversed(list(graph.nodes)):
        diff_dst = [_total(graph, diffs, v) for v in node.outputs]
        if node not in needed or all(d is None for d in diff_dst):
            continue
        with contained(node.layer, "gradient rule"):
            pairs = _pairs(node, node.layer.gradient(graph, node, *diff_dst))
        for value, partial in pairs:
            if partial is not None:
                diffs.setdefault(value, []).append(partial)
    totals = {value: _total(graph, diffs, value) for value in wrt}
    return {value: total for value, total in totals.items() if total is not None}


def _pairs(node: Node, gradients: Gradients) -> list[tuple[Value, Value | None]]:
    """The node's inputs and weights with their gradients, as the layer's rule gave them."""
    inputs, weights = list(gradients.inputs), dict(gradients.weights or {})
    if len(inputs) != len(node.inputs) or not weights.keys() <= node.weights.keys():
        rule = f"return {len(node.inputs)} gradients of inputs, and of weights among {list(node.weights)}"
        raise PluginError(message(node.layer.where, "gradient", rule, (len(inputs), list(weights))))
    pairs = [*zip(node.inputs, inputs, strict=True), *((node.weights[key], diff) for key, diff in weights.items())]
    for value, diff in pairs:
        if diff is not None and diff.shape != value.shape:
            raise PluginError(message(node.layer.where, "gradient", f"return the shape of {value.name}, {value.shape}",
                                      diff.shape))
    return pairs


def _depending_on(nodes: Sequence[Node], wrt: Iterable[Value]) -> set[Node]:
    reached, depending = set(wrt), set()
    for node in nodes:
        if any(v in reached for v in node.reads):
            depending.add(node)
            reached.update(v for v in node.outputs if v.dtype == FLOAT32)
    return depending


def _total(graph: Graph, diffs: dict[Value, list[Value]], value: Value) -> Value | None:
    partials = diffs.get(value)
    if not partials:
        return None
    if len(partials) > 1:
        from cnnext.layers.elementwise import add

        diffs[value] = [add(graph, *partials)]
    return diffs[value][0]
