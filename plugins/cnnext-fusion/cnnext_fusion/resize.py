"""Images of another size: ``Resize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._resample import AxisMap, Interpolation, Resample, export_resample, lower_resample, resized_axis
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
        if self.mode == "nearest":  # where a point lies between two pixels, runtimes round differently
            export_resample(b, node, *self.maps((src.shape[0], *b.extents(src))))
            return
        x = b.get_first(src)
        b.result_first(node.output, "Resize", [x, "", "", b.image_sizes(x, self.size)], mode="linear",
                       coordinate_transformation_mode="half_pixel")

    def maps(self, shape: Shape) -> tuple[AxisMap, AxisMap]:
        """Which source rows and columns make those of the result."""
        how = Interpolation("nearest" if self.mode == "nearest" else "linear", rounding="round_prefer_ceil")
        rows, cols = (resized_axis(n or 0, out, how) for n, out in zip(shape[1:3], self.size, strict=True))
        return rows, cols
