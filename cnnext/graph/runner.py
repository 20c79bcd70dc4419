"""Runs a graph for whatever shapes come: a bounded cache of plans, and the checks at the door."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import Graph, Shape, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.threads import limited, new_lock, resolve_threads

MAX_PLANS = 8


class Runner:
    """A graph ready for inference with inputs of any batch size.

    Parameters
    ----------
    graph : Graph
        As the user built it; shapes may be symbolic.
    num_threads : int, optional
        Workers of a run; by default what the machine, the container and ``OMP_NUM_THREADS`` allow.
    """

    def __init__(self, graph: Graph, num_threads: int | None = None):
        self.graph = graph
        self.num_threads = resolve_threads(num_threads)
        self._plans: OrderedDict[tuple[Shape, ...], Plan] = OrderedDict()
        self._lock = new_lock(self)

    def plan(self, shapes: Sequence[Shape]) -> Plan:
        """The plan for these input shapes, made when first asked for; the least recently used of eight is dropped."""
        key = tuple(tuple(s) for s in shapes)
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        guard = _switched_on("CNNEXT_GUARD")
        plan = Plan(optimize(prepare(self.graph, key, training=False)), default_level(), guard)
        if _switched_on("CNNEXT_VERBOSE"):
            print(plan.explain(), file=sys.stderr)
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        return plan

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Check the arrays against the graph's inputs and outputs, and run."""
        arrays = [check_input(v, x) for v, x in zip(self.graph.inputs, inputs, strict=True)]
        batch = {x.shape[0] for x in arrays}
        if len(batch) > 1:
            raise ValueError(message("inputs", "batch", "be the same for all inputs", [x.shape for x in arrays]))
        plan = self.plan([x.shape for x in arrays])
        if outputs is not None:
            check_outputs(plan, arrays, outputs)
        return plan.run(arrays, limited(self.num_threads), outputs)

    def trim(self) -> None:
        """Drop all plans and give their memory back."""
        with self._lock:
            self._plans.clear()


def _switched_on(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def check_input(value: Value, array: np.ndarray) -> np.ndarray:
    """The array, C contiguous, checked against an input's dtype, rank and extents."""
    where = f"input {value.name!r}"
    if not isinstance(array, np.ndarray):
        raise TypeError(message(where, "array", "be a NumPy array", type(array).__name__))
    if array.dtype != value.dtype:
        raise TypeError(message(where, "dtype", f"be {value.dtype}", str(array.dtype)))
    wanted = tuple("N" if i == 0 and n is None else "any" if n is None else n for i, n in enumerate(value.shape))
    if array.ndim != len(value.shape):
        raise ValueError(message(where, "shape", f"have rank {len(value.shape)}: {wanted}", array.shape))
    if any(n is not None and n != m for n, m in zip(value.shape, array.shape, strict=True)):
        raise ValueError(message(where, "shape", f"be {wanted}", array.shape))
    if array.size == 0:
        raise ValueError(message(where, "shape", "have at least one element on every axis", array.shape))
    return np.ascontiguousarray(array)


def check_outputs(plan: Plan, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """Check the arrays that a caller gives for the results: a kernel writes to them without asking."""
    if len(outputs) != len(plan.outputs):
        raise ValueError(message("session", "outputs", f"be {len(plan.outputs)} array(s)", len(outputs)))
    for i, (value, view, array) in enumerate(zip(plan.graph.outputs, plan.outputs, outputs, strict=True)):
        where, dtype = f"output {value.name!r}", view.storage.dtype
        if not isinstance(array, np.ndarray):
            raise TypeError(message(where, "array", "be a NumPy array", type(array).__name__))
        if array.dtype != dtype:
            raise TypeError(message(where, "dtype", f"be {dtype}", str(array.dtype)))
        if array.shape != view.shape:
            raise ValueError(message(where, "shape", f"be {view.shape}", array.shape))
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            raise ValueError(message(where, "array", "be C contiguous, aligned and writeable", array.strides))
        if any(np.may_share_memory(array, other) for other in (*inputs, *outputs[:i])):
            raise ValueError(message(where, "array", "share no memory with an input or another output", array))
