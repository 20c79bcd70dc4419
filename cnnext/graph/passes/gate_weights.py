"""Moves the gate of a squeeze-and-excitation from the map into the weights of the pointwise convolution behind it.

    sum over c of (x[n, h, w, c] * gate[n, c]) * weights[c, k] = sum over c of x[n, h, w, c] * (gate[n, c] * weights[c, k])

The left side multiplies, and writes, H * W * C elements of an image, the right side C * K.
"""

from __future__ import annotations

from cnnext.graph.graph import Graph, Node, Value
from cnnext.layers.conv2d import Conv2D, GatedConv2D
from cnnext.layers.elementwise import Multiply

FEWEST_PIXELS = 2       # of the map, for each channel that the convolution makes: what pays for weights of each image


def gate_weights(graph: Graph) -> Graph:
    """A copy of the graph in which pointwise convolutions of a gated map take the gate as their second input."""
    readers = graph.consumers()
    outputs = set(graph.outputs)

    def rule(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
        product = node.inputs[0] if len(node.inputs) == 1 else None
        if product is None or product in outputs or len(readers[product]) != 1 or not _is_pointwise(node):
            return None
        factors = _map_and_gate(inputs[0])
        if factors is None:
            return None
        layer = GatedConv2D.from_config(node.layer.config(), node.name)
        return g.apply(layer, *factors, weights=node.weights, name=node.name)

    return graph.rebuild(rule)


def _is_pointwise(node: Node) -> bool:
    layer = node.layer
    if type(layer) is not Conv2D or node.epilogue is not None or layer.groups != 1:
        return False
    window = layer.geometry(node.inputs[0].shape)
    return window.kernel == window.strides == (1, 1) and window.padding == ((0, 0), (0, 0)) and (
        _pixels(node.output) >= FEWEST_PIXELS * layer.filters)


def _map_and_gate(product: Value) -> tuple[Value, Value] | None:
    """The factors of a product: of a map (N, H, W, C) and what each image has for its channels, (N, 1, 1, C)."""
    node = product.node
    if node is None or type(node.layer) is not Multiply or node.epilogue is not None or len(node.inputs) != 2:
        return None
    n, _, _, c = product.shape
    for src, gate in (node.inputs, node.inputs[::-1]):
        if src.shape == product.shape and gate.shape == (n, 1, 1, c) and not gate.is_fixed:
            return src, gate
    return None


def _pixels(value: Value) -> int:
    return (value.shape[1] or 0) * (value.shape[2] or 0)
