"""Local response normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.attributes import data_format, integer, number
from cnnext.layers.layer import Gradients, Layer
from cnnext_normalization._lowering import known_channels, native_step, sample_rows, tile_rows

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class LocalResponseNorm(Layer):
    """``x[c] / (bias + alpha / size * sum of x[j]^2 over the size channels j around c)^beta`` for each pixel.

    The window goes from ``c - floor((size - 1) / 2)`` to ``c + ceil((size - 1) / 2)``, cut at the ends: the rule, and the
    defaults, of ONNX.

    Parameters
    ----------
    size : int
        At least 1.
    alpha, beta : float
        At least 0.
    bias : float
        Greater than 0.
    data_format : "channels_last" or "channels_first"

    References
    ----------
    A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural networks", 2012.
    """

    type_name = "normalization/LocalResponseNorm@1"

    size: int = integer(minimum=1)
    alpha: float = number(1e-4, minimum=0)
    beta: float = number(0.75, minimum=0)
    bias: float = number(1.0, above=0)
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        known_channels(self, shapes[0], 2)
        return shapes[0]

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(LocalResponseNormBackward(self), *node.inputs, dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        self.lower_rows(b, node)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        x = b.get_first(src)
        # ONNX Runtime has the operator for images, odd sizes and factors above 0 only.
        if len(src.shape) == 4 and self.size % 2 and self.alpha > 0 and self.beta > 0:
            b.result_first(node.output, "LRN", [x], size=self.size, alpha=self.alpha, beta=self.beta, bias=self.bias)
            return
        # the channels as rows of an image of one channel, of which a pool takes the means
        channels, before, after = src.shape[-1], (self.size - 1) // 2, self.size // 2
        rows = b.op("Reshape", b.op("Mul", x, x), b.ints(0, 1, channels, -1))
        means = b.op("AveragePool", rows, kernel_shape=[self.size, 1], strides=[1, 1], pads=[before, 0, after, 0],
                     count_include_pad=1)
        base = b.op("Add", b.op("Mul", b.op("Reshape", means, b.op("Shape", x)), b.scalar(self.alpha)), b.scalar(self.bias))
        b.result_first(node.output, "Div", [x, b.op("Pow", base, b.scalar(self.beta))])

    def lower_rows(self, b: PlanBuilder, node: Node) -> None:
        """Append the step of the forward pass, or with diff_dst as a second input that of the backward pass."""
        *src, dst = sample_rows([b.view(v) for v in (*node.inputs, node.output)], False)
        channels, rows = dst.shape[-1], tile_rows(dst.shape[-1])
        # a channel beyond the last sees nothing
        before, after = (min(reach, channels) for reach in ((self.size - 1) // 2, self.size // 2))
        params: dict[str, Sequence[float] | float] = {
            "rows": rows, "before": before, "after": after, "alpha": self.alpha / self.size, "beta": self.beta,
            "bias": self.bias,
        }
        native_step(b, "response", src, [dst], params, tiles=-(-math.prod(dst.shape[1:-1]) // rows),
                    scratch_bytes=8 * channels, macs=self.size * dst.size, why=f"window of {self.size} channels")


class LocalResponseNormBackward(Layer):
    """Gradient with respect to the source: inputs x and diff_dst."""

    n_inputs = 2

    def __init__(self, layer: LocalResponseNorm):
        super().__init__(name=f"{layer.name}/diff_src")
        self.layer = layer

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        self.layer.lower_rows(b, node)
