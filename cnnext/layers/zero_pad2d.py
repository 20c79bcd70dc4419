"""Rows and columns around an image: ``ZeroPad2D``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnnext.geometry import PaddingPairs
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._resample import AxisMap, Resample, check_image, lower_resample
from cnnext.layers.attributes import Pair, choice, data_format, number, padding
from cnnext.layers.crop2d import Crop2D
from cnnext.layers.layer import Gradients, Layer, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class ZeroPad2D(Layer):
    """Adds rows and columns around an image: (N, H, W, C) to (N, PT + H + PB, PL + W + PR, C).

    Parameters
    ----------
    padding : int, (rows, columns) or ((top, bottom), (left, right))
    mode : "constant", "reflect" or "edge"
        Fill with ``value``; mirror at the outermost pixel without repeating it; repeat the outermost pixel. The names
        are those of `numpy.pad`.
    value : float
        For ``mode="constant"``.
    data_format : "channels_last" or "channels_first"
    """

    type_name = "cnnext/ZeroPad2D@1"

    padding: PaddingPairs = padding(1, words=())
    mode: str = choice("constant", "reflect", "edge")
    value: float = number(0.0, infinite=True)
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        check_image(self, src)
        for size, pads in zip(src[1:3], self.padding, strict=True):
            if self.mode == "reflect" and size is not None and max(pads) >= size:
                raise self.error("padding", "be less than the rows and columns that it reflects", self.padding, src)
        rows, cols = (None if n is None else n + sum(pads) for n, pads in zip(src[1:3], self.padding, strict=True))
        return (src[0], rows, cols, src[3])

    def is_identity(self, training: bool) -> bool:
        return self.padding == ((0, 0), (0, 0))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        name = f"{self.name}/diff_src"
        if self.mode == "constant":
            return Gradients([g.apply1(Crop2D(self.padding, name=name), dy)])
        rows, cols = self.maps(node.inputs[0].shape)
        return Gradients([g.apply1(Resample(rows.transposed(), cols.transposed(), name), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        lower_resample(b, src, b.view(node.output), *self.maps(src.shape), self.value)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order, pads = b.layout(src), [(0, 0), *self.padding, (0, 0)]
        amounts = b.ints(*(pads[axis][0] for axis in order), *(pads[axis][1] for axis in order))
        value = [b.scalar(self.value)] if self.mode == "constant" and self.value else []
        b.result(node.output, "Pad", [b.get(src, order), amounts, *value], order, mode=self.mode)

    def maps(self, shape: Shape) -> tuple[AxisMap, AxisMap]:
        """Where the rows and the columns of the result come from."""
        rows, cols = (padded_axis(n or 0, pads, self.mode) for n, pads in zip(shape[1:3], self.padding, strict=True))
        return rows, cols

    @property
    def window(self) -> Window:
        return Window((1, 1), padding=(self.padding[0][0], self.padding[1][0]))


def padded_axis(size: int, pads: Pair, mode: str) -> AxisMap:
    """The map of one padded axis."""
    if mode == "constant":
        return AxisMap(size, [*([] for _ in range(pads[0])), *([(i, 1.0)] for i in range(size)),
                              *([] for _ in range(pads[1]))])
    indices = np.arange(-pads[0], size + pads[1])
    if mode == "edge":
        indices = np.clip(indices, 0, size - 1)
    else:
        # mirrors at 0 and at size - 1
        indices = (size - 1) - np.abs((size - 1) - np.abs(indices))
    return AxisMap(size, [[(i, 1.0)] for i in indices.tolist()])
