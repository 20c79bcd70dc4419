"""Replaces layers that are made of others by what they are made of, until all that is left lowers itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.layer import Layer
from cnnext.plugins import contained


def expand(graph: Graph, shapes: Sequence[Shape] | None, training: bool, known: Mapping[int, np.ndarray] | None = None,
           staged: bool = False) -> Graph:
    """A copy of the graph with composed layers, fused activations and channels-first layers written out."""
    return graph.rebuild(expand_node, shapes, training, known, staged)


def expand_node(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
    """Append what the node is made of; returns what stands for its outputs. The rule of ``expand``."""
    training, g.training = g.training, g.training and not node.keeps_statistics
    try:
        return _apply(g, node.layer, inputs, dict(node.weights), node.name)
    finally:
        g.training = training


def _apply(g: Graph, layer: Layer, inputs: list[Value], weights: dict[str, Value], name: str) -> list[Value]:
    if layer.is_identity(g.training):
        return inputs
    if layer.data_format == "channels_first":
        inputs = [_permute(g, v, first=False) for v in inputs]
    inner = channels_last_twin(layer)
    first = len(g.nodes)
    composed = composition(g, inner, inputs, weights)
    if composed is None:
        outputs = g.apply(inner, *inputs, weights=weights, name=name)
    else:
        outputs = _expand_composed(g, first, composed)
    activation = getattr(layer, "activation", None)
    if activation is not None and composed is None:
        from cnnext.layers.activation import activation_layer

        function = activation_layer(activation)
        outputs = _apply(g, function, outputs, {}, f"{name}/{type(function).__name__.lower()}")
    if layer.data_format == "channels_first":
        outputs = [_permute(g, v, first=True) for v in outputs]
    return outputs


def composition(g: Graph, layer: Layer, inputs: list[Value], weights: dict[str, Value]) -> list[Value] | None:
    """Append what a channels-last layer composes and return what stands for its outputs; None if it composes nothing."""
    with contained(layer, "compose rule"):
        composed = layer.compose(g, *inputs, weights=weights)
        if composed is None:
            return None
        values = [composed] if isinstance(composed, Value) else list(composed)
        _check_composed(layer, inputs, values)
        return values


def _check_composed(layer: Layer, inputs: list[Value], composed: list[Value]) -> None:
    if not layer.type_name or layer.type_name.startswith("cnnext/"):
        return
    made = [v.shape for v in composed]
    wanted = layer.infer_shapes(*(v.shape for v in inputs))
    if made != wanted:
        raise PluginError(message(layer.where, "compose", f"return values of the shapes {wanted} that the shape rule says",
                                  made))


def channels_last_twin(layer: Layer) -> Layer:
    """A layer that computes the same of channels-last values."""
    if layer.data_format == "channels_last":
        return layer
    twin = copy.copy(layer)
    twin.data_format = "channels_last"
    return twin


def _expand_composed(g: Graph, first: int, outputs: list[Value]) -> list[Value]:
    # What a composed layer appended may be composed itself: expand those nodes in turn.
    appended, g.nodes = g.nodes[first:], g.nodes[:first]
    new_of: dict[Value, Value] = {}
    for node in appended:
        inputs = [new_of.get(v, v) for v in node.inputs]
        weights = {key: new_of.get(v, v) for key, v in node.weights.items()}
        new_of.update(zip(node.outputs, _apply(g, node.layer, inputs, weights, node.name), strict=True))
        if node in g.effects:
            g.effects[g.effects.index(node)] = g.nodes[-1]
    return [new_of.get(v, v) for v in outputs]


def _permute(g: Graph, value: Value, first: bool) -> Value:
    from cnnext.layers.permute import Permute

    rank = len(value.shape)
    axes = (0, rank - 1, *range(1, rank - 1)) if first else (0, *range(2, rank), 1)
    return g.apply1(Permute(axes, name=f"{value.name}/{'channels_first' if first else 'channels_last'}"), value)
