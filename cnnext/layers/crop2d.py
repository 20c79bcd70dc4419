"""Rows and columns cut off an image: ``Crop2D``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnext.geometry import PaddingPairs
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._resample import check_image
from cnnext.layers.attributes import REQUIRED, data_format, padding
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Crop2D(Layer):
    """Cuts rows and columns off an image: (N, H, W, C) to (N, H - top - bottom, W - left - right, C), without a copy.

    Parameters
    ----------
    cropping : int, (rows, columns) or ((top, bottom), (left, right))
    data_format : "channels_last" or "channels_first"
    """

    type_name = "cnnext/Crop2D@1"

    cropping: PaddingPairs = padding(REQUIRED, words=())
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        check_image(self, src)
        for size, cut in zip(src[1:3], self.cropping, strict=True):
            if size is not None and sum(cut) >= size:
                raise self.error("cropping", "leave some of the source", self.cropping, src)
        rows, cols = (None if n is None else n - sum(cut) for n, cut in zip(src[1:3], self.cropping, strict=True))
        return (src[0], rows, cols, src[3])

    def is_identity(self, training: bool) -> bool:
        return self.cropping == ((0, 0), (0, 0))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        from cnnext.layers.zero_pad2d import ZeroPad2D

        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(ZeroPad2D(self.cropping, name=f"{self.name}/diff_src"), dy)])

    def view(self, node: Node, src: View) -> View:
        (top, bottom), (left, right) = self.cropping
        return src.sliced(1, top, src.shape[1] - bottom).sliced(2, left, src.shape[2] - right)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst = self.view(node, b.view(node.inputs[0])), b.view(node.output)
        if src != dst:
            copy_view(b, src, dst)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        ranges = {order.index(axis): (before, -after or None) for axis, (before, after) in enumerate(self.cropping, 1)}
        b.result(node.output, *b.slice(b.get(src, order), ranges), order)

    @property
    def window(self) -> Window:
        return Window((1, 1), padding=(-self.cropping[0][0], -self.cropping[1][0]))
