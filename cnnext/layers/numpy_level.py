"""Layers that compute with NumPy: how ``forward`` and ``backward`` become steps of a plan.

The executor leaves its parallel region, takes the GIL and calls them on views of its own memory. What ``forward`` keeps on
``ctx`` is there for ``backward`` of the same run; the inputs and outputs stay in memory until then, so keeping them costs
no copy.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.layer import Gradients, Layer
from cnnext.plugins import contained

if TYPE_CHECKING:
    from cnnext.graph.plan import PlanBuilder


class _Kept(threading.local):
    """The ``ctx`` of the run under way in this thread; a run stays in the thread that began it."""

    ctx: Any = None


def lower_forward(layer: Layer, b: PlanBuilder, node: Node) -> None:
    """Append the Python step that calls ``layer.forward``."""
    n_inputs, keys = len(node.inputs), list(node.weights)
    kept: _Kept | None = vars(layer).get("_kept")
    training = b.training and not node.keeps_statistics

    def call(src: list[np.ndarray], dst: list[np.ndarray]) -> None:
        ctx = SimpleNamespace(training=training, weights=dict(zip(keys, src[n_inputs:], strict=True)), diff_weights={})
        with contained(layer, "forward"):
            _store(layer, "forward", layer.forward(ctx, *src[:n_inputs]), dst)
        if kept is not None:
            kept.ctx = ctx

    sources = [b.view(v) for v in (*node.inputs, *node.weights.values())]
    b.step(f"{type(layer).__name__}.forward", sources, [b.view(v) for v in node.outputs], why="NumPy layer", entry=call)


def gradient(layer: Layer, g: Graph, node: Node, diff_dst: Sequence[Value | None]) -> Gradients:
    """Append the node that calls ``layer.backward``; the forward node keeps its ``ctx`` for it."""
    bound = copy.copy(layer)
    bound.__dict__["_kept"] = kept = _Kept()
    node.layer = bound
    diffs = [d if d is not None else _zeros(g, v) for d, v in zip(diff_dst, node.outputs, strict=True)]
    backward = NumpyBackward(layer, kept, [v.shape for v in node.inputs], {k: v.shape for k, v in node.weights.items()},
                             len(diffs))
    made = g.apply(backward, *node.inputs, *node.weights.values(), *node.outputs, *diffs)
    n_inputs = len(node.inputs)
    return Gradients(made[:n_inputs], dict(zip(node.weights, made[n_inputs:], strict=True)))


def _zeros(g: Graph, value: Value) -> Value:
    from cnnext.layers.elementwise import scaled

    return scaled(g, value, 0.0)


class NumpyBackward(Layer):
    """Calls ``backward`` of a NumPy layer. Inputs: its inputs, weights and outputs (kept alive), then diff_dst."""

    n_inputs = None

    def __init__(self, layer: Layer, kept: _Kept, input_shapes: list[Shape], weight_shapes: dict[str, Shape],
                 n_diffs: int):
        super().__init__(name=f"{layer.name}/backward")
        self.layer = layer
        self.kept = kept
        self.input_shapes = input_shapes
        self.weight_shapes = weight_shapes
        self.n_diffs = n_diffs

    def output_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        return [*self.input_shapes, *self.weight_shapes.values()]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [np.dtype(np.float32)] * (len(self.input_shapes) + len(self.weight_shapes))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        layer, kept, n_inputs, n_diffs = self.layer, self.kept, len(self.input_shapes), self.n_diffs
        keys = list(self.weight_shapes)

        def call(src: list[np.ndarray], dst: list[np.ndarray]) -> None:
            ctx = kept.ctx
            with contained(layer, "backward"):
                diffs = layer.backward(ctx, *src[len(src) - n_diffs :])
                _store(layer, "backward", diffs, dst[:n_inputs])
                missing = [key for key in keys if key not in ctx.diff_weights]
                if missing:
                    raise PluginError(message(layer.where, "backward", f"set ctx.diff_weights for {missing}",
                                              list(ctx.diff_weights)))
                _store(layer, "backward", [ctx.diff_weights[key] for key in keys], dst[n_inputs:])

        b.step(f"{type(layer).__name__}.backward", [b.view(v) for v in node.inputs], [b.view(v) for v in node.outputs],
               why="NumPy layer", entry=call)


def _store(layer: Layer, method: str, results: Any, dst: list[np.ndarray]) -> None:
    arrays = [results] if isinstance(results, np.ndarray) else list(results)
    if len(arrays) != len(dst):
        raise PluginError(message(layer.where, method, f"return {len(dst)} array(s)", len(arrays)))
    for array, target in zip(arrays, dst, strict=True):
        array = np.asarray(array)
        if array.shape != target.shape:
            raise PluginError(message(layer.where, method, f"return an array of shape {target.shape}", array.shape))
        if array.dtype.kind != "f":
            raise PluginError(message(layer.where, method, "return floats", str(array.dtype)))
        target[...] = array
