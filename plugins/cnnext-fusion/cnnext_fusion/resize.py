"""Images of another size: ``Resize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._resample import AxisMap, Resample, lower_resample
from cnnext.layers.attributes import Pair, choice, data_format, pair
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Resize(Layer):
    """Images of any given size: (N, H, W, C) to (N, OH, OW, C).

    Parameters
    ----------
    size : int or (rows, columns)
        OH and OW.
    mode : "nearest" or "bilinear"
        The nearest source pixel, or interpolation between the two nearest of each axis. Pixel centres lie at half-integer
        coordinates, as in ``UpSample2D``; nothing is smoothed before an image is made smaller.
    data_format : "channels_last" or "channels_first"
    """

    type_name = "fusion/Resize@1"

    size: Pair = pair()
    mode: str = choice("nearest", "bilinear")
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", src)
        return (src[0], *self.size, src[3])

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (dy,) = diff_dst
        assert dy is not None
        rows, cols = self.maps(node.inputs[0].shape)
        return Gradients([g.apply1(Resample(rows.transposed(), cols.transposed(), f"{self.name}/diff_src"), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        lower_resample(b, src, b.view(node.output), *self.maps(src.shape))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        if self.mode == "nearest":  # by the indices: where a point lies between two pixels, runtimes round differently
            order, maps = b.layout(src), self.maps((src.shape[0], *b.extents(src)))
            rows, cols = (b.constant(np.array([terms[0][0] for terms in axis.terms], np.int64), "pixels") for axis in maps)
            taller = b.op("Gather", b.get(src, order), rows, axis=order.index(1))
            b.result(node.output, "Gather", [taller, cols], order, axis=order.index(2))
            return
        # the whole shape: "axes" of Resize came later, and scales instead of sizes round
        x = b.get_first(src)
        outer = b.op("Slice", b.op("Shape", x), b.ints(0), b.ints(2))
        size = b.op("Concat", outer, b.ints(*self.size), axis=0)
        b.result_first(node.output, "Resize", [x, "", "", size], mode="linear", coordinate_transformation_mode="half_pixel")

    def maps(self, shape: Shape) -> tuple[AxisMap, AxisMap]:
        """Which source rows and columns make those of the result."""
        axis = _nearest if self.mode == "nearest" else _bilinear
        rows, cols = (axis(n or 0, out) for n, out in zip(shape[1:3], self.size, strict=True))
        return rows, cols


def _nearest(size: int, out: int) -> AxisMap:
    """Centre i of the result lies at (i + 1/2) size / out, inside the pixel of that whole number."""
    return AxisMap(size, [[((2 * i + 1) * size // (2 * out), 1.0)] for i in range(out)])


def _bilinear(size: int, out: int) -> AxisMap:
    """Centre i of the result lies at (i + 1/2) size / out - 1/2 of the source, between two of its centres."""
    terms = []
    for i in range(out):
        # in whole numbers of 1 / (2 out), so that a point on a centre is exactly that
        point = min(max((2 * i + 1) * size - out, 0), (size - 1) * 2 * out)
        index, rest = divmod(point, 2 * out)
        right = rest / (2 * out)
        terms.append([(index, 1.0 - right), (index + 1, right)] if rest else [(index, 1.0)])
    return AxisMap(size, terms)
