"""The graph passes of plugins: each gets a copy of the graph, and what it returns must compute the same.

A pass that changed a graph is believed only after both graphs gave the same results on random inputs and weights
(``docs/design/0003-plugin-passes.md``). The graph before it is never touched, so a pass that fails costs an error, with the
name of its distribution and how to leave it out, and nothing else.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.graph.graph import Graph, Parameter, Value, constant
from cnnext.plugins import Plugin, graph_passes, load_pass, without

TOLERANCE = 1e-4    # of the largest magnitude of an output
MAX_VERIFIED = 1024

_verified: set[tuple[Any, ...]] = set()


def plugin_passes(graph: Graph, rest: Callable[[Graph], Graph]) -> Graph:
    """The graph after the passes of installed plugins, in the order of their names.

    Parameters
    ----------
    graph : Graph
        For inference.
    rest : callable
        The passes that follow, for the graphs that are compared.

    Raises
    ------
    PluginError
        If a pass cannot be imported, raises, returns no graph or one of other inputs and outputs, or changes what the graph
        computes.
    """
    for owner in graph_passes():
        graph = _applied(graph, owner, rest)
    return graph


def _applied(graph: Graph, owner: Plugin, rest: Callable[[Graph], Graph]) -> Graph:
    where, function = f"graph pass {owner.name!r}", load_pass(owner)
    with _blamed(owner, f"{where} raised"):
        after = function(_copy(graph))
    if not isinstance(after, Graph):
        raise _fault(owner, message(where, "result", "be a graph", type(after).__name__))
    with _blamed(owner, f"{where} returned a graph that cannot be read:"):
        after.order()
        wanted, made = _interface(graph), _interface(after)
        strays = _strays(after)
        is_same = _wiring(after) == _wiring(_copy(graph))
        change = (owner, _structure(graph), _structure(after))
    if made != wanted:
        raise _fault(owner, message(where, "result", f"have the inputs and outputs {wanted}", made))
    if strays:
        raise _fault(owner, message(where, "result", "read its inputs, parameters and constants alone", strays))
    if is_same:
        return graph
    if change in _verified and os.environ.get("CNNEXT_GUARD", "0") in ("", "0"):
        return after
    if not _agrees(graph, after, owner, rest):
        return graph
    if len(_verified) >= MAX_VERIFIED:
        _verified.clear()
    _verified.add(change)
    return after


def _copy(graph: Graph) -> Graph:
    return graph.rebuild(lambda g, node, inputs: None)


def _interface(graph: Graph) -> str:
    inputs, outputs = (", ".join(f"{v.dtype}{list(v.shape)}" for v in values) for values in (graph.inputs, graph.outputs))
    return f"{inputs} -> {outputs}"


def _strays(graph: Graph) -> list[str]:
    """Values that nothing makes and nobody feeds: kernels would read memory that is not there."""
    values = dict.fromkeys([*(v for node in graph.nodes for v in node.reads), *graph.outputs])
    return [v.name for v in values if v.is_source and not v.is_persistent and v not in graph.inputs]


# Who is to blame


def _fault(owner: Plugin, text: str) -> PluginError:
    return PluginError(f"{text} ({owner}). {without(owner.distribution)}")


@contextmanager
def _blamed(owner: Plugin, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _fault(owner, f"{what} {type(error).__name__}: {error}") from error


def _replaced(before: Graph, after: Graph) -> str:
    """Which nodes are gone, and which came, by name and layer."""
    old, new = ({(node.name, type(node.layer).__name__) for node in g.nodes} for g in (before, after))
    if old == new:
        return "It changed what nodes read, or how they are made"
    gone, come = (", ".join(f"{name} ({kind})" for name, kind in sorted(nodes)[:8]) or "nothing"
                  for nodes in (old - new, new - old))
    return f"It replaced {gone} by {come}"


# Whether anything changed


def _wiring(graph: Graph) -> list[Any]:
    """The graph as numbers, equal for two copies of one graph."""
    number: dict[Value, Any] = {value: ("input", i) for i, value in enumerate(graph.inputs)}

    def name(value: Value | None) -> Any:
        if value is None:
            return None
        return number.get(value) or ("persistent", id(value.parameter or value.data))

    nodes = []
    for i, node in enumerate(graph.nodes):
        e = node.epilogue
        epilogue = None if e is None else (name(e.add), e.low, e.high, e.post)
        weights = {key: name(v) for key, v in node.weights.items()}
        nodes.append((id(node.layer), [name(v) for v in node.inputs], weights, epilogue))
        number.update({value: (i, j) for j, value in enumerate(node.outputs)})
    return [nodes, [name(v) for v in graph.outputs]]


def _structure(graph: Graph) -> tuple[Any, ...]:
    """Names, layers and extents of the nodes, without the batch: what tells a change from others."""
    return tuple((node.name, type(node.layer), repr(node.layer), tuple(v.shape[1:] for v in (*node.inputs, *node.outputs)))
                 for node in graph.nodes)


# Whether both compute the same


def _agrees(before: Graph, after: Graph, owner: Plugin, rest: Callable[[Graph], Graph]) -> bool:
    """Whether two graphs compute the same on random inputs and weights; where they do not, raises.

    Where the graph before cannot run on such inputs, nobody can tell: False, with a warning.
    """
    where, rng = f"graph pass {owner.name!r}", np.random.default_rng(0)
    inputs = [_random(rng, value) for value in before.inputs]
    weights: dict[Parameter, Value] = {}
    try:
        wanted = _results(rest(_with_other_weights(_copy(before), weights, rng)), inputs)
    except Exception as error:
        warnings.warn(f"{where} is left out: the graph does not run on random inputs, so its change cannot be checked "
                      f"({type(error).__name__}: {error}).", stacklevel=2)
        return False
    with _blamed(owner, f"{where} returned a graph that cannot run:"):
        made = _results(rest(_with_other_weights(_copy(after), weights, rng)), inputs)
    for value, x, y in zip(before.outputs, wanted, made, strict=True):
        difference = _relative_error(x, y)
        if not difference <= TOLERANCE:
            raise _fault(owner, f"{where} changes what the graph computes: output {value.name!r} differs by "
                                f"{difference:.1e} of its largest magnitude. {_replaced(before, after)}.")
    return True


def _random(rng: np.random.Generator, value: Value) -> np.ndarray:
    shape = tuple(n or 0 for n in value.shape)
    if value.dtype.kind == "f":
        return rng.standard_normal(shape).astype(value.dtype)
    if value.dtype.kind == "b":
        return rng.random(shape) < 0.5
    return np.zeros(shape, value.dtype)     # a class number, an index: 0 is always one


def _results(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    from cnnext.graph.plan import Plan
    from cnnext.isa import default_level
    from cnnext.threads import available_threads

    return Plan(graph, default_level()).run(inputs, available_threads())


def _with_other_weights(graph: Graph, weights: dict[Parameter, Value], rng: np.random.Generator) -> Graph:
    """The graph on weights near its own: a bias of 0 would hide that it is lost, a copied weight that it is stale."""

    def other(value: Value) -> Value:
        p = value.parameter
        if p is None:
            return value
        if p not in weights:
            noise = rng.random(p.shape, np.float32)
            weights[p] = constant(np.where(p.data == 0, 0.1 * noise, p.data * (0.9 + 0.2 * noise)), value.name)
        return weights[p]

    for node in graph.nodes:
        node.exchange_reads(other)
    graph.outputs = [other(v) for v in graph.outputs]
    return graph


def _relative_error(x: np.ndarray, y: np.ndarray) -> float:
    """Largest difference in units of the largest magnitude; infinite where one is finite and the other is not."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    difference = float(np.abs(a[finite] - b[finite]).max(initial=0))
    scale = float(np.abs(a[finite]).max(initial=0))
    return 0.0 if difference == 0 else difference / max(scale, 1e-30)
