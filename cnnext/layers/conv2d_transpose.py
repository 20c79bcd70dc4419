"""``Conv2DTranspose``: the convolution whose forward pass is the backward-data pass of ``Conv2D``."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from cnnext._native.executor import BINARY
from cnnext.geometry import PaddingPairs, window_extent
from cnnext.graph.graph import Epilogue, Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers._rows import row_step
from cnnext.layers._taps import Window2D, lower_backward_data, lower_convolution
from cnnext.layers._weighted import BackwardData, fold_into_weights, weighted_gradient, weights_and_bias
from cnnext.layers._windows import onnx_window
from cnnext.layers.attributes import Pair, activation, boolean, data_format, initializer, integer, padding, pair, regularizer
from cnnext.layers.conv2d import ConvolutionBackwardWeights, _size
from cnnext.layers.layer import Gradients, Layer, ParameterSpec, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2


class Conv2DTranspose(Layer):
    """Transposed convolution of ``(N, H, W, C)``: each source pixel adds its window, scaled, to the output.

    Output rows are ``(IH - 1) * SH + (KH - 1) * DH + 1 - top - bottom + output_padding``; with ``padding="same"``
    they are ``IH * SH``.

    Parameters
    ----------
    filters : int
        Output channels OC.
    kernel_size, strides, dilation : int or (rows, columns)
    padding : "valid", "same" or ((top, bottom), (left, right))
        Rows and columns cut from the border of the full result.
    output_padding : int or (rows, columns)
        Rows and columns added below and to the right, less than the stride.
    groups, use_bias, activation, data_format, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer
        As in ``Conv2D``.

    Weights
    -------
    weights (KH, KW, OC//groups, IC), bias (OC,)
    """

    type_name = "cnnext/Conv2DTranspose@1"
    accepts_epilogue = True

    filters: int = integer(minimum=1)
    kernel_size: Pair = pair()
    strides: Pair = pair(1)
    padding: str | PaddingPairs = padding()
    dilation: Pair = pair(1)
    output_padding: Pair = pair(0, minimum=0)
    groups: int = integer(1, minimum=1)
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    data_format: str = data_format()
    kernel_initializer: Any = initializer("glorot_uniform")
    bias_initializer: Any = initializer("zeros")
    kernel_regularizer: L1L2 | None = regularizer()
    bias_regularizer: L1L2 | None = regularizer()

    def validate(self) -> None:
        if any(p >= max(s, d) for p, s, d in zip(self.output_padding, self.strides, self.dilation, strict=True)):
            raise self.error("output_padding", f"be smaller than strides={self.strides} or dilation={self.dilation}",
                             self.output_padding)

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels = self.channels(shapes[0])
        taps = prod(self.kernel_size)
        per_group = self.filters // self.groups
        return weights_and_bias(self, (*self.kernel_size, per_group, channels), taps * channels // self.groups,
                                taps * per_group, (self.filters,))

    def channels(self, shape: Shape) -> int:
        """Channels of the source, checked against rank and groups."""
        if len(shape) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", shape)
        channels = shape[3]
        if not channels:
            raise self.error("src", "have a known number of channels", shape)
        if channels % self.groups or self.filters % self.groups:
            raise self.error("groups", "divide the channels of the source and `filters`", self.groups, shape)
        return channels

    def geometry(self) -> Window2D:
        """The window of the convolution that this layer transposes."""
        return Window2D(self.kernel_size, self.strides, self.pixels(), self.dilation, self.groups)

    def pixels(self) -> PaddingPairs:
        """The padding in pixels; "same" cuts what exceeds IH * SH, the odd pixel after."""
        if self.padding == "same":
            excess = [max(window_extent(k, d) - s, 0)
                      for k, d, s in zip(self.kernel_size, self.dilation, self.strides, strict=True)]
            return (excess[0] // 2, excess[0] - excess[0] // 2), (excess[1] // 2, excess[1] - excess[1] // 2)
        return ((0, 0), (0, 0)) if isinstance(self.padding, str) else self.padding

    def output_shape(self, *shapes: Shape) -> Shape:
        self.channels(shapes[0])
        spatial: list[int | None] = []
        for axis, (before, after) in enumerate(self.pixels()):
            size, stride = shapes[0][1 + axis], self.strides[axis]
            if size is None:
                spatial.append(None)
                continue
            full = (size - 1) * stride + window_extent(self.kernel_size[axis], self.dilation[axis])
            out = full - before - after + self.output_padding[axis]
            if self.padding == "same":
                out = size * stride + self.output_padding[axis]
            if out < 1:
                raise self.error("padding", f"leave at least one pixel of the {full} of the full result",
                                 (before, after), shapes[0])
            spatial.append(out)
        return (shapes[0][0], *spatial, self.filters)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        # y = K^T x for the convolution K: dx = K dy, and dW is the one of K with dy as its source.
        src_shape, weights_shape = node.inputs[0].shape, node.weights["weights"].shape
        return weighted_gradient(g, node, diff_dst[0], TransposeBackwardData(src_shape, self.name, self.geometry()),
                                 ConvolutionBackwardWeights(weights_shape, self.name, self.geometry()), transposed=True)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        bias = b.view(node.weights["bias"]) if "bias" in node.weights else None
        lower_backward_data(b, b.view(node.inputs[0]), b.view(node.weights["weights"]), bias, b.view(node.output),
                            self.geometry(), no_epilogue(node))

    def fold_affine(self, g: Graph, node: Node, scale: Value, shift: Value) -> dict[str, Value] | None:
        return fold_into_weights(g, node, scale, shift, ScaleFilters) if self.groups == 1 else None

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        window = self.geometry()
        extra = list(self.output_padding)
        if self.padding == "same":  # IH * SH rows, where the windows leave gaps between them too
            extra = [p + max(s - window_extent(k, d), 0)
                     for p, s, k, d in zip(extra, self.strides, self.kernel_size, self.dilation, strict=True)]
        if any(p >= s for p, s in zip(extra, self.strides, strict=True)):
            # more than ONNX Runtime takes: rows that the padding need not cut, and beyond those, zeros
            pads = [(before, max(after - p, 0)) for (before, after), p in zip(window.padding, extra, strict=True)]
            extra = [max(p - after, 0) for (_, after), p in zip(window.padding, extra, strict=True)]
            window = replace(window, padding=(pads[0], pads[1]))
        inputs = [b.get_first(node.inputs[0]), b.weight(node.weights["weights"], (3, 2, 0, 1))]
        attributes = dict(onnx_window(window), group=self.groups)
        if all(p < s for p, s in zip(extra, self.strides, strict=True)):
            b.result_first(node.output, "ConvTranspose", [*inputs, *b.weights_of(node, "bias")], output_padding=extra,
                           **attributes)
            return
        padded = [b.op("ConvTranspose", *inputs, **attributes), b.ints(0, 0, 0, 0, 0, 0, *extra)]
        if "bias" in node.weights:
            column = b.weight(node.weights["bias"], shape=(self.filters, 1, 1))
            b.result_first(node.output, "Add", [b.op("Pad", *padded), column])
        else:
            b.result_first(node.output, "Pad", padded)

    @property
    def window(self) -> Window:
        # dst[s * i + k * d - p] receives src[i]: read from dst, that is tap K-1-k of the spread source, (K-1) d - p ahead
        extent = [window_extent(k, d) - 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        (top, _), (left, _) = self.pixels()
        return Window(self.kernel_size, (1, 1), self.dilation, (extent[0] - top, extent[1] - left), self.strides)

    def macs(self, node: Node) -> int:
        return _size(node.inputs[0].shape) * prod(self.kernel_size) * self.filters // self.groups


class TransposeBackwardData(BackwardData):
    """Gradient of ``Conv2DTranspose`` with respect to its source: an ordinary convolution of diff_dst."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        diff_dst, weights = (b.view(v) for v in node.inputs)
        lower_convolution(b, diff_dst, weights, None, b.view(node.output), self.geometry, Epilogue())


class ScaleFilters(Layer):
    """Weights (KH, KW, OC, IC) of a transposed convolution * scale (OC,)."""

    n_inputs = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        (weights, scale), dst = (b.view(v) for v in node.inputs), b.view(node.output)
        column = View(scale.storage, scale.offset, (*scale.shape, 1), (*scale.strides, 0))
        row_step(b, "binary", [weights, column.expanded(dst.shape)], [dst], {"op": BINARY["multiply"]}, why="scale")
