"""Channels weighted by what the whole image shows: ``SqueezeExcite``."""

from __future__ import annotations

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.attributes import data_format, integer
from cnnext.layers.dense import Dense
from cnnext.layers.elementwise import multiply
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext.layers.pooling import GlobalAvgPool2D


class SqueezeExcite(Layer):
    """``src * sigmoid(expand(relu(reduce(mean over H, W of src))))``, one factor for each channel of (N, H, W, C).

    Parameters
    ----------
    ratio : int
        The hidden layer has C / ratio units, at least one.
    data_format : "channels_last" or "channels_first"

    Weights
    -------
    reduce (C, C/ratio), reduce_bias (C/ratio,), expand (C/ratio, C), expand_bias (C,)

    References
    ----------
    Hu et al. 2018, "Squeeze-and-Excitation Networks", arXiv 1709.01507.
    """

    type_name = "fusion/SqueezeExcite@1"
    onnx_as_composed = True

    ratio: int = integer(16, minimum=1)
    data_format: str = data_format()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels = shapes[0][3]
        if channels is None:
            raise self.error("src", "have a known number of channels", *shapes)
        hidden = max(1, channels // self.ratio)
        return {
            "reduce": ParameterSpec((channels, hidden), "he_uniform", channels, hidden),
            "reduce_bias": ParameterSpec((hidden,), "zeros"),
            "expand": ParameterSpec((hidden, channels), "glorot_uniform", hidden, channels),
            "expand_bias": ParameterSpec((channels,), "zeros"),
        }

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", src)
        return src

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        channels, hidden = weights["reduce"].shape
        reduce = Dense(hidden, activation="relu", name=f"{self.name}/reduce")
        expand = Dense(channels, activation="sigmoid", name=f"{self.name}/expand")
        y = g.apply1(GlobalAvgPool2D(keepdims=True, name=f"{self.name}/squeeze"), *x)
        y = g.apply1(reduce, y, weights={"weights": weights["reduce"], "bias": weights["reduce_bias"]})
        y = g.apply1(expand, y, weights={"weights": weights["expand"], "bias": weights["expand_bias"]})
        return multiply(g, *x, y)

    def macs(self, node: Node) -> int:
        channels, hidden = node.weights["reduce"].shape
        return 2 * (node.output.shape[0] or 1) * (channels or 1) * (hidden or 1)
