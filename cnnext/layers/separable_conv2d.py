"""``SeparableConv2D``: a depthwise convolution, then a pointwise one."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from cnnext.geometry import PaddingPairs, resolve_padding
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers._taps import Pair, Window2D
from cnnext.layers._weighted import bias_spec
from cnnext.layers._windows import receptive_window
from cnnext.layers.attributes import activation, boolean, data_format, initializer, integer, padding, pair, regularizer
from cnnext.layers.conv2d import Conv2D, output_size
from cnnext.layers.depthwise_conv2d import DepthwiseConv2D, channels_of
from cnnext.layers.layer import Layer, ParameterSpec, Window

if TYPE_CHECKING:
    from cnnext.training.regularizers import L1L2


class SeparableConv2D(Layer):
    """2-D convolution of ``(N, H, W, C)`` in two steps: windows in each channel, then channels in each pixel.

    Parameters
    ----------
    filters : int
        Output channels OC.
    kernel_size, strides, padding, dilation, depth_multiplier
        Of the depthwise part, as in ``DepthwiseConv2D``.
    use_bias, activation
        Of the pointwise part, as in ``Conv2D``.
    strict, data_format, bias_initializer, bias_regularizer
        As in ``Conv2D``.
    depthwise_initializer, pointwise_initializer, depthwise_regularizer, pointwise_regularizer
        As ``kernel_initializer`` and ``kernel_regularizer`` there.

    Weights
    -------
    depthwise (KH, KW, C, M), pointwise (1, 1, C*M, OC), bias (OC,)

    References
    ----------
    Chollet 2017, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv 1610.02357.
    """

    type_name = "cnnext/SeparableConv2D@1"

    filters: int = integer(minimum=1)
    kernel_size: Pair = pair()
    strides: Pair = pair(1)
    padding: str | PaddingPairs = padding()
    dilation: Pair = pair(1)
    depth_multiplier: int = integer(1, minimum=1)
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    strict: bool = boolean(False)
    data_format: str = data_format()
    depthwise_initializer: Any = initializer("glorot_uniform")
    pointwise_initializer: Any = initializer("glorot_uniform")
    bias_initializer: Any = initializer("zeros")
    depthwise_regularizer: L1L2 | None = regularizer()
    pointwise_regularizer: L1L2 | None = regularizer()
    bias_regularizer: L1L2 | None = regularizer()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels, multiplier, taps = channels_of(self, shapes[0]), self.depth_multiplier, prod(self.kernel_size)
        between = channels * multiplier
        specs = {
            "depthwise": ParameterSpec((*self.kernel_size, channels, multiplier), self.depthwise_initializer, taps,
                                       taps * multiplier, regularizer=self.depthwise_regularizer),
            "pointwise": ParameterSpec((1, 1, between, self.filters), self.pointwise_initializer, between, self.filters,
                                       regularizer=self.pointwise_regularizer),
        }
        if self.use_bias:
            specs["bias"] = bias_spec(self, (self.filters,))
        return specs

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        channels_of(self, shape)
        pads = resolve_padding(self.padding, (shape[1] or 1, shape[2] or 1), self.kernel_size, self.strides,
                               self.dilation)
        window = Window2D(self.kernel_size, self.strides, pads, self.dilation)
        spatial = [output_size(self, shape[1 + axis], window, axis, shape) for axis in range(2)]
        return (shape[0], *spatial, self.filters)

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        depthwise = DepthwiseConv2D(self.kernel_size, self.strides, self.padding, self.dilation, self.depth_multiplier,
                                    use_bias=False, name=f"{self.name}/depthwise")
        pointwise = Conv2D(self.filters, 1, use_bias=self.use_bias, activation=self.activation,
                           name=f"{self.name}/pointwise")
        between = g.apply1(depthwise, *x, weights={"weights": weights["depthwise"]})
        rest = {"weights": weights["pointwise"]} | ({"bias": weights["bias"]} if self.use_bias else {})
        return g.apply1(pointwise, between, weights=rest)

    @property
    def window(self) -> Window:
        return receptive_window(self.kernel_size, self.strides, self.dilation, self.padding)

    def macs(self, node: Node) -> int:
        n, oh, ow, oc = (extent or 1 for extent in node.output.shape)
        between = (node.inputs[0].shape[3] or 1) * self.depth_multiplier
        return n * oh * ow * between * (prod(self.kernel_size) + oc)
