"""Plans of a single sum of taps by one algorithm, for ``tune=True`` to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnnext.graph.graph import FLOAT32, Epilogue, Graph, Node, Shape, Value, constant
from cnnext.graph.memory import View
from cnnext.graph.plan import Plan, PlanBuilder
from cnnext.layers._algorithms import Algorithm, TapSum
from cnnext.layers.layer import Layer
from cnnext.tuning import shape_key


def trial_times(b: PlanBuilder, s: TapSum, algorithms: Sequence[Algorithm]) -> dict[str, float]:
    """Seconds of each algorithm by its name."""
    assert b.tuner is not None
    names = [a.name for a in algorithms]
    return b.tuner.times(_key(b, s), lambda: {a.name: _plan(b, s, a) for a in algorithms}, names)


def _key(b: PlanBuilder, s: TapSum) -> str:
    """All that the time depends on: extents, strides, taps, and what else the kernel reads."""
    def place(view: View | None) -> tuple[tuple[int, ...], ...] | None:
        return (view.shape, view.strides) if view is not None else None

    taps = [tap[:2] for tap in s.taps]
    details = (place(s.src), place(s.dst), place(s.add), taps, s.strides, s.groups, s.backward, s.bias is not None,
               s.epilogue.post, b.is_fixed(s.weights))
    extents = [" ".join(map(str, view.shape)) for view in (s.src, s.dst)]
    return shape_key(f"{extents[0]} -> {extents[1]}, {len(taps)} taps", details)


def _plan(b: PlanBuilder, s: TapSum, algorithm: Algorithm) -> Plan:
    """The algorithm's steps alone, on memory laid out as the sum's; fixed weights are fixed here too, and packed once."""
    given: list[Value] = []

    def value(view: View | None, of_run: bool) -> Value | None:
        if view is None:
            return None
        if not of_run and b.is_fixed(view):
            return constant(np.resize(np.random.default_rng(0).standard_normal(4096, np.float32), _extent(view)))
        given.append(Value((_extent(view),), FLOAT32, "given"))
        return given[-1]

    values = [value(s.src, True), value(s.weights, False), value(s.bias, False), value(s.add, True)]
    graph = Graph(given, [])
    graph.outputs = [graph.apply1(_Trial(s, algorithm, values), *given)]
    return Plan(graph, b.level, exact=b.exact)


def _extent(view: View) -> int:
    """Elements from the first of a view to its last."""
    return 1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))


class _Trial(Layer):
    """One sum of taps by one algorithm, on flat arrays."""

    n_inputs = None

    def __init__(self, s: TapSum, algorithm: Algorithm, values: Sequence[Value | None]):
        super().__init__(name=f"trial of {algorithm.name}")
        self.sum = s
        self.algorithm = algorithm
        self.values = values

    def output_shape(self, *shapes: Shape) -> Shape:
        return (_extent(self.sum.dst),)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        s = self.sum

        def placed(view: View, value: Value) -> View:
            return View(b.view(value).storage, 0, view.shape, view.strides)

        src, weights, bias, add = (placed(view, value) if view is not None and value is not None else None
                                   for view, value in zip((s.src, s.weights, s.bias, s.add), self.values, strict=True))
        assert src is not None and weights is not None
        epilogue = Epilogue(None, s.epilogue.low, s.epilogue.high, s.epilogue.post)
        self.algorithm.lower(b, replace(s, src=src, weights=weights, bias=bias, add=add, epilogue=epilogue,
                                        dst=placed(s.dst, node.output)), "")
