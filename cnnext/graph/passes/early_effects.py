"""Moves what changes parameters right behind the last node that reads them.

An optimizer's update then reads a gradient that is still in the cache, and the gradient's memory is free after it. At the
end of the step, where updates stand before this pass, all gradients would be in memory together.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.graph.graph import Graph, Node, Parameter, Value


def early_effects(graph: Graph) -> Graph:
    """The graph with its effects as early as they can run; nothing may order its nodes again after that."""
    effects = set(graph.effects)
    groups = [[node] for node in graph.nodes if node not in effects]
    graph.nodes = [node for group in with_effects(groups, graph.effects) for node in group]
    return graph


def with_effects(groups: Sequence[Sequence[Node]], effects: Sequence[Node]) -> list[Sequence[Node]]:
    """Groups of nodes that run together, in their order, and each effect behind the last that it has to wait for."""
    held = _held_parameters([node for group in groups for node in group])
    made: dict[Value, int] = {}
    last_use: dict[Parameter, int] = {}
    for i, group in enumerate(groups):
        for node in group:
            made.update((v, i) for v in node.outputs)
            last_use.update((p, i) for v in node.reads for p in held.get(v, ()))
    behind: list[list[Sequence[Node]]] = [[] for _ in range(len(groups) + 1)]
    for effect in effects:
        parameters = [v.parameter for v in effect.reads if v.parameter is not None]
        place = max((-1, *(made[v] for v in effect.reads if v in made), *(last_use.get(p, -1) for p in parameters)))
        made.update((v, place) for v in effect.outputs)
        last_use.update((p, place) for p in parameters)     # effects that share a parameter keep their order
        behind[place + 1].append([effect])
    return [*behind[0], *(g for group, after in zip(groups, behind[1:], strict=True) for g in (group, *after))]


def _held_parameters(nodes: Sequence[Node]) -> dict[Value, set[Parameter]]:
    """The parameters whose memory a value is or may be a view of."""
    held = {v: {v.parameter} for node in nodes for v in node.reads if v.parameter is not None}
    for node in nodes:
        if node.layer.views_input:
            parameters = set().union(*(held.get(v, set()) for v in node.inputs))
            held.update((v, parameters) for v in node.outputs if parameters)
    return held
