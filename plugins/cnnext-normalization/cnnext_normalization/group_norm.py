"""Group and instance normalization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.attributes import boolean, data_format, initializer, integer, number, regularizer
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext_normalization._channels import ChannelNormalize, channel_statistics, gamma_and_beta
from cnnext_normalization._lowering import known_channels, scale_and_center

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2


class SampleNorm(Layer, ABC):
    """What normalization by statistics of each sample has in common."""

    rank: ClassVar[int] = 2
    epsilon: float
    center: bool
    scale: bool

    @abstractmethod
    def group_size(self, shape: Shape) -> int:
        """Channels that share their statistics."""

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return scale_and_center(self, known_channels(self, shapes[0], self.rank))

    def output_shape(self, *shapes: Shape) -> Shape:
        self.group_size(shapes[0])
        return shapes[0]

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        group = self.group_size(x[0].shape)
        stats = channel_statistics(g, x[0], self.epsilon, True, group, self.name)
        both = gamma_and_beta(weights, known_channels(self, x[0].shape, self.rank))
        return g.apply1(ChannelNormalize(True, group, self.name), *x, stats, weights=both)


class GroupNorm(SampleNorm):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta``, over the pixels and a group of channels of each sample.

    Parameters
    ----------
    groups : int
        Divides the channels; group g holds C/groups neighbouring ones.
    epsilon : float
        Greater than 0.
    center, scale : bool
        Learn beta, gamma.
    data_format : "channels_last" or "channels_first"
    gamma_initializer, beta_initializer : str, Initializer, array or function of a shape
    gamma_regularizer, beta_regularizer : str or L1L2, optional

    Weights
    -------
    gamma (C,), beta (C,)

    References
    ----------
    Y. Wu, K. He, "Group normalization", 2018.
    """

    type_name = "normalization/GroupNorm@1"

    groups: int = integer(32, minimum=1)
    epsilon: float = number(1e-3, above=0)
    center: bool = boolean(True)
    scale: bool = boolean(True)
    data_format: str = data_format()
    gamma_initializer: Any = initializer("ones")
    beta_initializer: Any = initializer("zeros")
    gamma_regularizer: L1L2 | None = regularizer()
    beta_regularizer: L1L2 | None = regularizer()

    def group_size(self, shape: Shape) -> int:
        channels = known_channels(self, shape, self.rank)
        if channels % self.groups:
            raise self.error("groups", "divide the channels of the source", self.groups, shape)
        return channels // self.groups

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        channels, x = known_channels(self, src.shape, self.rank), b.get_first(src)
        gamma, beta = gamma_and_beta(node.weights, channels).values()
        if b.opset >= 21 and len(src.shape) > 2:    # before, it had one scale for each group
            b.result_first(node.output, "GroupNormalization", [x, b.get(gamma), b.get(beta)], epsilon=self.epsilon,
                           num_groups=self.groups)
            return
        # a group of channels as one channel of a longer image
        ones, zeros = (b.constant(fill(self.groups, np.float32)) for fill in (np.ones, np.zeros))
        grouped = b.op("InstanceNormalization", b.op("Reshape", x, b.ints(0, self.groups, -1)), ones, zeros,
                       epsilon=self.epsilon)
        whole = b.op("Reshape", grouped, b.op("Shape", x))
        scale, shift = (b.weight(v, shape=(channels, *[1] * (len(src.shape) - 2))) for v in (gamma, beta))
        b.result_first(node.output, "Add", [b.op("Mul", whole, scale), shift])


class InstanceNorm(SampleNorm):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta``, over the pixels of each channel of each sample.

    Parameters
    ----------
    epsilon : float
        Greater than 0.
    center, scale : bool
        Learn beta, gamma.
    data_format : "channels_last" or "channels_first"
    gamma_initializer, beta_initializer : str, Initializer, array or function of a shape
    gamma_regularizer, beta_regularizer : str or L1L2, optional

    Weights
    -------
    gamma (C,), beta (C,)

    References
    ----------
    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient for fast stylization", 2016.
    """

    type_name = "normalization/InstanceNorm@1"
    rank = 3

    epsilon: float = number(1e-3, above=0)
    center: bool = boolean(True)
    scale: bool = boolean(True)
    data_format: str = data_format()
    gamma_initializer: Any = initializer("ones")
    beta_initializer: Any = initializer("zeros")
    gamma_regularizer: L1L2 | None = regularizer()
    beta_regularizer: L1L2 | None = regularizer()

    def group_size(self, shape: Shape) -> int:
        known_channels(self, shape, self.rank)
        return 1

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        both = gamma_and_beta(node.weights, known_channels(self, src.shape, self.rank))
        b.result_first(node.output, "InstanceNormalization", [b.get_first(src), b.get(both["gamma"]), b.get(both["beta"])],
                       epsilon=self.epsilon)
