"""Control flow: graphs inside of operators, ``If`` and ``Loop``.

A branch whose condition is known when the plan is made is written out like any other part of the graph. What the data
decides is computed by NumPy, node by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnext.graph.graph import Value, constant
from cnnext.graph.memory import check_memory
from cnnext.graph.stages import ContentsNeeded, DataDependent, WaitsForData
from cnnext.onnx.layer import (
    OnnxOperator,
    array_from_json,
    array_to_json,
    evaluate_wanted,
    named,
    operator_from_json,
    operator_to_json,
)
from cnnext.onnx.operator import Operator
from cnnext.onnx.site import Site

MAX_ITERATIONS = 50_000    # of a node's loops, those inside of them counted each time


@dataclass
class Allowance:
    """What a node's loops may still do, so that a small file does not run for years or fill the memory."""

    where: str
    iterations: int = MAX_ITERATIONS
    kept_bytes: int = 0

    def iterate(self) -> None:
        self.iterations -= 1
        if self.iterations < 0:
            raise ValueError(f"{self.where}: at most {MAX_ITERATIONS} iterations, with those of the loops inside.")

    def keep(self, arrays: Sequence[np.ndarray]) -> int:
        """Count arrays that stay in memory, and return their bytes."""
        n_bytes = sum(a.nbytes for a in arrays)
        self.kept_bytes += n_bytes
        check_memory(self.where, self.kept_bytes)
        return n_bytes

    def release(self, n_bytes: int) -> None:
        self.kept_bytes -= n_bytes


@dataclass(frozen=True, eq=False)
class InnerNode:
    """A node of a subgraph; values are known by name, "" is an input that is left out."""

    operator: Operator
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A graph that is an attribute.

    Attributes
    ----------
    inputs, outputs : tuple of str
    nodes : tuple of InnerNode
    constants : dict of str to ndarray
    captured : tuple of str
        What it reads of the graphs around it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[InnerNode, ...]
    constants: dict[str, np.ndarray]
    captured: tuple[str, ...]

    def written_out(self, s: Site, known: dict[str, Value]) -> list[Value]:
        """The outputs as part of the site's graph, from the values that the subgraph reads."""
        values = {**known, **{name: constant(array, name) for name, array in self.constants.items()}}
        for node in self.nodes:
            given = [values[name] if name else None for name in node.inputs]
            layer = OnnxOperator(node.operator, ["*" if v is not None else "" for v in given],
                                 [None for name in node.outputs if name], f"{s.name}/{node.name}")
            made = Site.of(layer, s.g, [v for v in given if v is not None], {}).values()
            values.update(zip([name for name in node.outputs if name], made, strict=True))
        return [values[name] for name in self.outputs]

    def evaluated(self, known: dict[str, np.ndarray], allowance: Allowance) -> list[np.ndarray]:
        """The outputs as NumPy computes them."""
        arrays = {**known, **self.constants}
        held = 0
        for node in self.nodes:
            given = [arrays[name] if name else None for name in node.inputs]
            made = evaluate_node(node.operator, given, arrays, allowance)
            held += allowance.keep(made)
            arrays.update(zip([name for name in node.outputs if name], made, strict=True))
        allowance.release(held)
        return [arrays[name] for name in self.outputs]

    def to_json(self, where: str) -> dict[str, Any]:
        """The graph as model files hold it."""
        nodes = [{"operator": operator_to_json(where, node.operator), "name": node.name, "inputs": list(node.inputs),
                  "outputs": list(node.outputs)} for node in self.nodes]
        return {"inputs": list(self.inputs), "outputs": list(self.outputs), "nodes": nodes, "captured": list(self.captured),
                "constants": {name: array_to_json(array) for name, array in self.constants.items()}}

    @staticmethod
    def from_json(described: dict[str, Any]) -> Subgraph:
        """The graph that ``to_json`` describes."""
        def names(given: Sequence[Any]) -> tuple[str, ...]:
            return tuple(str(name) for name in given)

        nodes = [InnerNode(operator_from_json(node["operator"]), str(node["name"]), names(node["inputs"]),
                           names(node["outputs"])) for node in described["nodes"]]
        constants = {str(name): array_from_json(array) for name, array in described["constants"].items()}
        return Subgraph(names(described["inputs"]), names(described["outputs"]), tuple(nodes), constants,
                        names(described["captured"]))


def evaluate_node(op: Operator, inputs: Sequence[np.ndarray | None], around: dict[str, np.ndarray],
                  allowance: Allowance) -> list[np.ndarray]:
    """An operator's named outputs; control flow reads ``around`` by name."""
    if op.op_type == "If" and op.domain == "":
        return _branch(op, inputs[0]).evaluated(around, allowance)
    if op.op_type == "Loop" and op.domain == "":
        return _loop(op, inputs, around, allowance)
    return evaluate_wanted(op, inputs)


def _branch(op: Operator, condition: np.ndarray | None) -> Subgraph:
    if condition is None or condition.size != 1:
        raise ValueError(f"If: the condition must be one value. Received {condition!r}.")
    return op.attributes["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]


def _loop(op: Operator, inputs: Sequence[np.ndarray | None], around: dict[str, np.ndarray],
          allowance: Allowance) -> list[np.ndarray]:
    body: Subgraph = op.attributes["body"]
    trips, going, *carried = inputs[: len(body.inputs)]     # what the body captures follows
    n = None if trips is None else int(trips.reshape(-1)[0])
    goes_on = going is None or bool(going.reshape(-1)[0])
    collected: list[list[np.ndarray]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    i = 0
    while (n is None or i < n) and goes_on:
        allowance.iterate()
        state = [np.array(i, np.int64), np.array(goes_on), *carried]
        known = {**around, **dict(zip(body.inputs, state, strict=True))}
        condition, *results = body.evaluated(known, allowance)  # type: ignore[arg-type]
        goes_on = bool(condition.reshape(-1)[0])
        carried = list(results[: len(carried)])
        for rows, row in zip(collected, results[len(carried) :], strict=True):
            rows.append(row)
            allowance.keep([row])
        i += 1
    stacked = [np.stack(rows) if rows else np.empty((0,), np.float32) for rows in collected]
    outputs = [*carried, *stacked]
    return [np.asarray(a) for a, wanted in zip(outputs, op.wanted, strict=False) if wanted]


# As rules. What the subgraphs capture are inputs of the node behind its own.


def _captured_names(op: Operator) -> list[str]:
    graphs = [a for a in op.attributes.values() if isinstance(a, Subgraph)]
    return list(dict.fromkeys(name for graph in graphs for name in graph.captured))


def if_(s: Site) -> list[Value]:
    """If: the branch that a known condition names, written out; else, what the data decides."""
    names = _captured_names(s.op)
    if s.known(0) is not None:
        try:
            return _branch(s.op, s.known(0)).written_out(s, {name: s.value(1 + i) for i, name in enumerate(names)})
        except WaitsForData:
            raise _eager(s, 1, names) from None
    raise ContentsNeeded([0])


def loop(s: Site) -> list[Value]:
    """Loop: computed when its inputs are there."""
    names = _captured_names(s.op)
    raise _eager(s, len(s.inputs) - len(names), names)


def _eager(s: Site, n_own: int, names: Sequence[str]) -> DataDependent:
    def evaluate(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        full = s.arrays(arrays)
        around = {name: array for name, array in zip(names, full[n_own:], strict=True) if array is not None}
        with named(s.op, s.name):
            return evaluate_node(s.op, full[:n_own], around, Allowance(s.layer.where))

    return DataDependent(evaluate)


RULES = {"If": if_, "Loop": loop}
