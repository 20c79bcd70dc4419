"""Runs a graph for whatever shapes come: a bounded cache of plans, and the checks at the door."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext._native import executor
from cnnext.collector import paused_collector
from cnnext.errors import message
from cnnext.graph.graph import Graph, Shape, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan, switched_on
from cnnext.graph.stages import Rest
from cnnext.isa import default_level
from cnnext.threads import limited, new_lock, resolve_threads

if TYPE_CHECKING:
    from cnnext.tuning import Tuner

MAX_PLANS = 8


class Runner:
    """A graph ready for inference with inputs of any batch size.

    Parameters
    ----------
    graph : Graph
        As the user built it; shapes may be symbolic.
    num_threads : int, optional
        Workers of a run; by default what the machine, the container and ``OMP_NUM_THREADS`` allow.
    contents : set of int
        Inputs whose contents the plan depends on.
    exact : bool
        Sums are added up as they are defined: no Winograd.
    tune : bool
        Algorithms are timed, and the times remembered.
    """

    def __init__(self, graph: Graph, num_threads: int | None = None, contents: Collection[int] = (),
                 exact: bool = False, tune: bool = False):
        self.graph = graph
        self.exact = exact
        self.tune = tune
        self.num_threads = resolve_threads(num_threads)
        self._contents = sorted(contents)
        self._stages: OrderedDict[tuple[Any, ...], _Stage] = OrderedDict()
        self._latest: _Latest | None = None
        self._lock = new_lock(self)

    def plan(self, shapes: Sequence[Shape]) -> Plan:
        """The plan for these input shapes, made when first asked for; the least recently used of eight is dropped.

        Of a graph whose shapes depend on its data, the plan of its first stage.
        """
        return self._stage(tuple(tuple(s) for s in shapes), {}).plan

    def _stage(self, shapes: tuple[Shape, ...], known: dict[int, np.ndarray]) -> _Stage:
        key = (shapes, self.exact, self.tune, *(array.tobytes() for array in known.values()))
        with self._lock:
            if key in self._stages:
                self._stages.move_to_end(key)
                return self._stages[key]
        with paused_collector():
            graph = prepare(self.graph, shapes, training=False, known=known, staged=True)
            plan = Plan(optimize(graph), default_level(), switched_on("CNNEXT_GUARD"), self.exact, self.tuner())
        following = None
        if graph.rest is not None:
            following = Runner(graph.rest.graph, self.num_threads, graph.rest.contents, self.exact, self.tune)
        if switched_on("CNNEXT_VERBOSE"):
            print(plan.explain(), file=sys.stderr)
        with self._lock:
            self._stages[key] = stage = _Stage(plan, graph.rest, following)
            while len(self._stages) > MAX_PLANS:
                self._stages.popitem(last=False)
        return stage

    def tuner(self) -> Tuner | None:
        """What measures for a plan; None where the model of the costs decides."""
        if not self.tune:
            return None
        from cnnext.tuning import Tuner

        return Tuner(default_level(), limited(self.num_threads))

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Check the arrays against the graph's inputs and outputs, and run."""
        latest = self._latest
        if (latest is not None and outputs is None and latest.choice == (self.exact, self.tune)
                and executor.alike(inputs, latest.likes, np.ndarray)):
            return latest.plan.run(inputs, limited(self.num_threads))
        arrays = [check_input(v, x, self.graph.shares_batch) for v, x in zip(self.graph.inputs, inputs, strict=True)]
        if self.graph.shares_batch and len({x.shape[0] for x in arrays}) > 1:
            raise ValueError(message("inputs", "batch", "be the same for all inputs", [x.shape for x in arrays]))
        return self._run(arrays, outputs, limited(self.num_threads))

    def _run(self, arrays: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None, n_threads: int) -> list[np.ndarray]:
        known = {i: arrays[i].copy() for i in self._contents}
        stage = self._stage(tuple(x.shape for x in arrays), known)
        if stage.rest is None or stage.following is None:
            if outputs is not None:
                check_outputs(stage.plan, arrays, outputs)
            if not self._contents:
                self._latest = _Latest([(x.shape, x.dtype) for x in arrays], stage.plan,
                                       (self.exact, self.tune))
            return stage.plan.run(arrays, n_threads, outputs)
        return stage.following._run(stage.rest.feeds(stage.plan.run(arrays, n_threads)), outputs, n_threads)

    def trim(self) -> None:
        """Drop all plans and give their memory back."""
        with self._lock:
            self._stages.clear()
            self._latest = None


@dataclass
class _Stage:
    """A plan, and what is to be done with its results where that depends on them."""

    plan: Plan
    rest: Rest | None
    following: Runner | None


@dataclass(frozen=True)
class _Latest:
    """What the last run's inputs were like, checked then, and their plan: most runs are like the one before."""

    likes: list[tuple[Shape, np.dtype]]
    plan: Plan
    choice: tuple[bool, bool]       # exact, tune


def check_input(value: Value, array: np.ndarray, nonempty: bool = True) -> np.ndarray:
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
    if array.size == 0 and nonempty:
        raise ValueError(message(where, "shape", "have at least one element on every axis", array.shape))
    return np.ascontiguousarray(array).reshape(array.shape)


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
