"""Larger images: ``UpSample2D``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._resample import AxisMap, Interpolation, Resample, check_image, lower_resample, resized_axis
from cnnext.layers.attributes import Pair, choice, data_format, pair
from cnnext.layers.layer import Gradients, Layer, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class UpSample2D(Layer):
    """Enlarges an image by whole factors: (N, H, W, C) to (N, H * FH, W * FW, C).

    Parameters
    ----------
    size : int or (rows, columns)
        The factors FH and FW.
    mode : "nearest" or "bilinear"
        Repeat each pixel; or interpolate between pixel centres, which lie at half-integer coordinates, and repeat the
        outermost pixels beyond them (TensorFlow's ``half_pixel_centers``, PyTorch's ``align_corners=False``).
    data_format : "channels_last" or "channels_first"
    """

    type_name = "cnnext/UpSample2D@1"

    size: Pair = pair(2)
    mode: str = choice("nearest", "bilinear")
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        check_image(self, src)
        rows, cols = (None if n is None else n * factor for n, factor in zip(src[1:3], self.size, strict=True))
        return (src[0], rows, cols, src[3])

    def is_identity(self, training: bool) -> bool:
        return self.size == (1, 1)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        rows, cols = self.maps(node.inputs[0].shape)
        return Gradients([g.apply1(Resample(rows.transposed(), cols.transposed(), f"{self.name}/diff_src"), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        lower_resample(b, src, b.view(node.output), *self.maps(src.shape))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        scales = b.constant(np.array([1, 1, *self.size], np.float32), "scales")
        b.result_first(node.output, "Resize", [b.get_first(node.inputs[0]), "", scales],
                       **(nearest if self.mode == "nearest" else linear))

    @property
    def window(self) -> Window:
        # Of a source spread by f, result o reads the pixel at or before it ("nearest"), or those less than f from the
        # point that it interpolates, o - (f - 1) / 2 ("bilinear").
        if self.mode == "nearest":
            kernel, before = self.size, (self.size[0] - 1, self.size[1] - 1)
        else:
            kernel = (2 * self.size[0] - self.size[0] % 2, 2 * self.size[1] - self.size[1] % 2)
            before = ((3 * self.size[0] - 2) // 2, (3 * self.size[1] - 2) // 2)
        return Window(kernel, padding=before, upsampling=self.size)

    def maps(self, shape: Shape) -> tuple[AxisMap, AxisMap]:
        """Which source rows and columns make those of the result."""
        how = Interpolation("nearest" if self.mode == "nearest" else "linear", rounding="round_prefer_ceil")
        rows, cols = (resized_axis(n or 0, (n or 0) * factor, how, factor)
                      for n, factor in zip(shape[1:3], self.size, strict=True))
        return rows, cols
