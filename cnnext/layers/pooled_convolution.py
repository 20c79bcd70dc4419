"""A convolution with the 2 x 2 maximum that follows it, as one operator: what ``fuse_pools`` makes of the two."""

from __future__ import annotations

from cnnext.graph.graph import Node, Shape
from cnnext.graph.memory import View, padded_channels
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers._taps import lower_convolution, lower_pooled
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.layer import Layer
from cnnext.layers.pooling import MaxPool2D, lower_pool


class PooledConvolution(Layer):
    """``pool(epilogue(convolution(src)))``, in one step where a kernel does both."""

    def __init__(self, convolution: Conv2D, pool: MaxPool2D, shape: Shape):
        super().__init__(name=convolution.name)
        self.convolution = convolution
        self.pool = pool
        self.convolved = tuple(n or 0 for n in shape)   # the shape between the two

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.pool.output_shape(self.convolution.output_shape(*shapes))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst, weights = b.view(node.inputs[0]), b.view(node.output), b.view(node.weights["weights"])
        bias = b.view(node.weights["bias"]) if "bias" in node.weights else None
        window, between = self.convolution.geometry(src.shape), self._between(b)
        if lower_pooled(b, src, weights, bias, dst, between, window, no_epilogue(node)):
            return
        lower_convolution(b, src, weights, bias, between, window, no_epilogue(node))
        pooled = self.pool.geometry(between.shape)
        lower_pool(b, "max", between, dst, pooled.taps(), pooled.strides)

    def _between(self, b: PlanBuilder) -> View:
        n, rows, cols, channels = self.convolved
        return b.temp((n, rows, cols, padded_channels(self.convolved))).sliced(3, 0, channels)
