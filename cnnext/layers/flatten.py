"""Images as vectors: ``Flatten``."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.layer import Gradients, Layer
from cnnext.layers.reshape import lower_reshape, reshape_back, reshaped

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Flatten(Layer):
    """All axes but the batch as one: (N, ...) to (N, product of the rest), the elements in order."""

    type_name = "cnnext/Flatten@1"
    keeps_order = True

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        return (src[0], None if None in src[1:] else prod(n for n in src[1:] if n is not None))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([reshape_back(g, dy, node.inputs[0].shape, self.name)])

    def view(self, node: Node, src: View) -> View | None:
        return reshaped(node, src)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_reshape(b, node)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        b.flatten(node.output, node.inputs[0])
