"""Images of another size: ``Resize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._resample import (
    ROUNDINGS,
    AxisMap,
    Interpolation,
    Resample,
    check_image,
    export_resample,
    lower_resample,
    resized_axis,
    resized_extent,
)
from cnnext.layers.attributes import Pair, boolean, choice, data_format, number, numbers, pair
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Resize(Layer):
    """Images of another size, (N, H, W, C) to (N, OH, OW, C), as ONNX's operator Resize defines it.

    Parameters
    ----------
    sizes : int or (rows, columns), optional
        OH and OW.
    scales : float or (rows, columns), optional
        Factors: OH is ``floor(H * scale)``. With ``sizes`` as well, they only say where the pixels of the result lie.
    mode : "nearest", "linear" or "cubic"
        The nearest pixel; or a mean of the two, or the four, nearest of each axis.
    coordinates : str
        Where the pixels of the result lie in the source: ``"half_pixel"`` (centres at half-integer coordinates),
        ``"half_pixel_symmetric"``, ``"pytorch_half_pixel"``, ``"align_corners"``, ``"asymmetric"`` or
        ``"tf_crop_and_resize"``.
    rounding : "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil"
        Which pixel is the nearest.
    cubic_coeff : float
        Keys's parameter a.
    exclude_outside : bool
        Leave out what lies outside the source instead of repeating its border.
    antialias : bool
        Widen the kernel where the result is smaller, so that every pixel of the source counts.
    region : (top, left, bottom, right)
        For ``"tf_crop_and_resize"``: the part of the source that is taken, as fractions of its extents less 1.
    extrapolation_value : float
        What ``"tf_crop_and_resize"`` puts outside the source.
    data_format : "channels_last" or "channels_first"
    """

    type_name = "cnnext/Resize@1"

    sizes: Pair | None = pair(None, optional=True)
    scales: tuple[float, ...] | None = numbers(None, count=2, above=0, optional=True)
    mode: str = choice("nearest", "linear", "cubic")
    coordinates: str = choice("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                              "tf_crop_and_resize")
    rounding: str = choice(*ROUNDINGS)
    cubic_coeff: float = number(-0.75)
    exclude_outside: bool = boolean(False)
    antialias: bool = boolean(False)
    region: tuple[float, ...] = numbers((0.0, 0.0, 1.0, 1.0), count=4)
    extrapolation_value: float = number(0.0, infinite=True)
    data_format: str = data_format()

    def validate(self) -> None:
        if self.sizes is None and self.scales is None:
            raise self.error("sizes", "be given, or `scales`", self.sizes)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        check_image(self, src)
        extents: list[int | None] = []
        for axis, size in enumerate(src[1:3]):
            if self.sizes is not None:
                extents.append(self.sizes[axis])
            else:
                assert self.scales is not None
                extents.append(None if size is None else resized_extent(size, self.scales[axis]))
        if 0 in src[1:3] or 0 in extents:
            raise self.error("scales", "leave at least one row and column of at least one", self.scales, src)
        return (src[0], *extents, src[3])

    def is_identity(self, training: bool) -> bool:
        return (self.sizes is None and self.scales == (1.0, 1.0) and self.coordinates != "tf_crop_and_resize")

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        rows, cols = self.maps(node.inputs[0].shape)
        return Gradients([g.apply1(Resample(rows.transposed(), cols.transposed(), f"{self.name}/diff_src"), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        lower_resample(b, src, b.view(node.output), *self.maps(src.shape), self.extrapolation_value)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        if None not in src.shape[1:3] and not self._is_exact_in_onnx(b.opset):
            export_resample(b, node, *self.maps(src.shape), self.extrapolation_value)
            return
        x = b.get_first(src)
        attributes: dict[str, Any] = dict(mode=self.mode, coordinate_transformation_mode=self.coordinates)
        if self.mode == "nearest":
            attributes["nearest_mode"] = self.rounding
        if self.mode == "cubic":
            attributes |= dict(cubic_coeff_a=self.cubic_coeff, exclude_outside=int(self.exclude_outside))
        if self.antialias:
            attributes["antialias"] = 1
        roi = ""
        if self.coordinates == "tf_crop_and_resize":
            top, left, bottom, right = self.region
            roi = b.constant(np.array([0, 0, top, left, 1, 1, bottom, right], np.float32), "region")
            attributes["extrapolation_value"] = self.extrapolation_value
        if self.sizes is None:
            assert self.scales is not None
            extents = [b.constant(np.array([1, 1, *self.scales], np.float32), "scales")]
        else:
            extents = ["", b.image_sizes(x, self.sizes)]
        b.result_first(node.output, "Resize", [x, roi, *extents], **attributes)

    def _is_exact_in_onnx(self, opset: int) -> bool:
        """Whether ONNX's operator has all of it in this version, and ONNX Runtime reads the very same pixels.

        Of pixels that are equally near, single precision chooses one there; and cubic images it refuses once it has moved
        a Transpose across the operator.
        """
        return (self.mode == "linear" and not self.antialias and not self.exclude_outside
                and (self.sizes is None or self.scales is None)
                and (self.coordinates != "half_pixel_symmetric" or opset >= 19))

    def maps(self, shape: Shape) -> tuple[AxisMap, AxisMap]:
        """Which source rows and columns make those of the result."""
        how = Interpolation(self.mode, self.coordinates, self.rounding, self.cubic_coeff, self.exclude_outside,
                            self.antialias)
        targets = self.output_shape(shape)[1:3]
        scales = self.scales or (None, None)
        rows, cols = (resized_axis(shape[1 + axis] or 0, targets[axis] or 0, how, scales[axis],
                                   (self.region[axis], self.region[2 + axis])) for axis in range(2))
        return rows, cols
