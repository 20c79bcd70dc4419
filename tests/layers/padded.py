"""Runs a layer on values whose pixels lie further apart than their channels: the planner pads 256 channels to 272."""

from __future__ import annotations

import numpy as np

from cnnext.graph.graph import Graph, Value
from cnnext.graph.memory import padded_channels
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.layers.activation import Tanh
from cnnext.layers.layer import Layer
from cnnext.testing import LayerRun, run_layer


class BetweenTanh(Layer):
    """tanh(layer(tanh(x))): source and result of ``layer`` are values of the arena, and so are their gradients."""

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer

    def parameters(self, *shapes):
        return self.layer.parameters(*shapes)

    def output_shape(self, *shapes):
        return self.layer.output_shape(*shapes)

    def compose(self, g, *x, weights):
        src = g.apply1(Tanh(), *x)
        return g.apply1(Tanh(), g.apply1(self.layer, src, weights=weights))


def run_in_place(layer: Layer, src: np.ndarray, level: str) -> np.ndarray:
    """Forward in a plan as users have it: no guard zones, results in the memory of sources that die."""
    value = Value(src.shape)
    graph = Graph([value], [layer(value)])
    graph.order()
    graph = optimize(prepare(graph, [src.shape], training=True))
    seed = [] if graph.seed is None else [np.zeros(1, np.int64)]
    return Plan(graph, level).run([src, *seed])[0]


def check_padded(layer: Layer, level: str) -> None:
    """The layer computes the same bits on padded values as on dense ones, forward and backward."""
    shape = (2, 3, 5, 256)
    assert padded_channels(shape) > shape[-1]
    rng = np.random.default_rng(0)
    src, diff_dst = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))

    def run(layer: Layer, *args: np.ndarray) -> LayerRun:
        return run_layer(layer, [args[0]], [np.asarray(d) for d in args[1:]] or None, level=level, training=True)

    inner_src = run(Tanh(), src).outputs[0]
    inner_dst = run(layer, inner_src).outputs[0]
    last = run(Tanh(), inner_dst, diff_dst)
    inner = run(layer, inner_src, last.diff_inputs[0])
    first = run(Tanh(), src, inner.diff_inputs[0])
    padded = run(BetweenTanh(layer), src, diff_dst)
    np.testing.assert_array_equal(padded.outputs[0], last.outputs[0])
    np.testing.assert_array_equal(run_in_place(BetweenTanh(layer), src, level), last.outputs[0])
    np.testing.assert_array_equal(padded.diff_inputs[0], first.diff_inputs[0])
    for key, diff in inner.diff_weights.items():
        np.testing.assert_array_equal(padded.diff_weights[key], diff)
