"""The same elements under another shape: ``Reshape``."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.attributes import shape
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Reshape(Layer):
    """The same elements, in the same order, under another shape; the batch stays. Costs nothing where memory allows.

    Parameters
    ----------
    target_shape : tuple of int
        Without the batch; one extent may be -1 and is then computed.
    """

    type_name = "cnnext/Reshape@1"
    keeps_order = True

    target_shape: tuple[int, ...] = shape(wildcard=True)

    def validate(self) -> None:
        if 0 in self.target_shape:
            raise self.error("target_shape", "have extents of at least 1, or one of -1", self.target_shape)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        known = prod(n for n in self.target_shape if n != -1)
        if None in src[1:]:
            return (src[0], *(None if n == -1 else n for n in self.target_shape))
        size = prod(n for n in src[1:] if n is not None)
        if size != known and (-1 not in self.target_shape or size % known):
            raise self.error("target_shape", f"hold the {size} elements of each image", self.target_shape, src)
        return (src[0], *(size // known if n == -1 else n for n in self.target_shape))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([reshape_back(g, dy, node.inputs[0].shape, self.name)])

    def view(self, node: Node, src: View) -> View | None:
        return reshaped(node, src)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_reshape(b, node)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        if len(self.target_shape) == 1:
            b.flatten(node.output, src)
        else:
            b.result(node.output, "Reshape", [b.get(src), b.ints(0, *self.target_shape)])  # 0: as in the source


class ReshapeTo(Layer):
    """The same elements, in the same order, under a shape that is known whole, the batch included. Any element type."""

    keeps_order = True

    def __init__(self, target: Shape, name: str):
        super().__init__(name=name)
        self.target = tuple(target)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if prod(n or 0 for n in src) != prod(n or 0 for n in self.target):
            raise self.error("shape", "hold the elements of the source", self.target, src)
        return self.target

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return dtypes

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(ReshapeTo(node.inputs[0].shape, f"{self.name}/diff_src"), dy)])

    def view(self, node: Node, src: View) -> View | None:
        return reshaped(node, src)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_reshape(b, node)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        b.result(node.output, "Reshape", [b.get(node.inputs[0]), b.ints(*self.target)])


def reshape_back(g: Graph, diff_dst: Value, src_shape: Shape, name: str) -> Value:
    """Append the gradient of a reshaping: its result's gradient under the source's shape."""
    target = tuple(-1 if n is None else n for n in src_shape[1:])
    return g.apply1(Reshape(target, name=f"{name}/diff_src"), diff_dst)


def reshaped(node: Node, src: View) -> View | None:
    """The node's output inside its input's memory, or None."""
    return src.reshaped(tuple(n or 0 for n in node.output.shape))


def lower_reshape(b: PlanBuilder, node: Node) -> None:
    """Copy where the output does not lie in the input's memory: through a view of one in the other's shape, if there is
    one, else through a dense copy."""
    src, dst = b.view(node.inputs[0]), b.view(node.output)
    if reshaped(node, src) == dst:
        return
    source, target = src.reshaped(dst.shape), dst.reshaped(src.shape)
    if target is not None:
        copy_view(b, src, target, why="reshape")
    elif source is not None:
        copy_view(b, source, dst, why="reshape")
    else:
        dense = b.temp(src.shape)
        copy_view(b, src, dense, why="reshape")
        source = dense.reshaped(dst.shape)
        assert source is not None, "a dense view has every shape"
        copy_view(b, source, dst, why="reshape")
