"""Batch normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.attributes import boolean, data_format, initializer, number, regularizer
from cnnext.layers.layer import Gradients, Layer, ParameterSpec
from cnnext_normalization._channels import (
    ChannelNormalize,
    MovingStatistics,
    channel_statistics,
    gamma_and_beta,
    lower_moving_statistics,
    lower_normalize,
    normalize_gradient,
)
from cnnext_normalization._lowering import known_channels, native_step, scale_and_center

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2


class BatchNorm(Layer):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` per channel, over all samples and pixels.

    Training takes the mean and the (biased) variance of the batch and moves the running ones towards them,
    ``moving = momentum * moving + (1 - momentum) * batch``. Inference takes the running ones; the layer is then a scale
    and a shift per channel, which a convolution or dense layer before it takes into its weights.

    Parameters
    ----------
    momentum : float
        In [0, 1].
    epsilon : float
        Greater than 0.
    center, scale : bool
        Learn beta, gamma.
    data_format : "channels_last" or "channels_first"
    gamma_initializer, beta_initializer : str, Initializer, array or function of a shape
    gamma_regularizer, beta_regularizer : str or L1L2, optional

    Weights
    -------
    gamma (C,), beta (C,), and, not trained, moving_mean (C,), moving_variance (C,)

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
    2015.
    """

    type_name = "normalization/BatchNorm@1"
    accepts_epilogue = True

    momentum: float = number(0.99, minimum=0, maximum=1)
    epsilon: float = number(1e-3, above=0)
    center: bool = boolean(True)
    scale: bool = boolean(True)
    data_format: str = data_format()
    gamma_initializer: Any = initializer("ones")
    beta_initializer: Any = initializer("zeros")
    gamma_regularizer: L1L2 | None = regularizer()
    beta_regularizer: L1L2 | None = regularizer()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels = known_channels(self, shapes[0], 2)
        return {
            **scale_and_center(self, channels),
            "moving_mean": ParameterSpec((channels,), "zeros", trainable=False),
            "moving_variance": ParameterSpec((channels,), "ones", trainable=False),
        }

    def output_shape(self, *shapes: Shape) -> Shape:
        known_channels(self, shapes[0], 2)
        return shapes[0]

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value | None:
        if not g.training:
            return None
        stats = channel_statistics(g, x[0], self.epsilon, False, 1, self.name)
        g.apply(MovingUpdate(self.momentum, self.name), stats, weights["moving_mean"], weights["moving_variance"])
        g.effects.append(g.nodes[-1])
        channels = known_channels(self, x[0].shape, 2)
        return g.apply1(ChannelNormalize(False, 1, self.name), *x, stats, weights=gamma_and_beta(weights, channels))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        # of the inference form: the statistics are constants
        dy = diff_dst[0]
        assert dy is not None
        both = gamma_and_beta(node.weights, known_channels(self, node.output.shape, 2))
        stats = g.apply1(MovingStatistics(self.epsilon, node.name), *_moving(node))
        diffs = normalize_gradient(g, node, stats, both["gamma"], both["beta"], dy, False, 1, frozen=True)
        return Gradients(diffs.inputs, {key: d for key, d in (diffs.weights or {}).items() if key in node.weights})

    def lower(self, b: PlanBuilder, node: Node) -> None:
        channels = known_channels(self, node.output.shape, 2)
        gamma, beta = (b.view(v) for v in gamma_and_beta(node.weights, channels).values())
        stats = b.temp((1, 4, channels))
        lower_moving_statistics(b, [b.view(v) for v in _moving(node)], stats, self.epsilon)
        lower_normalize(b, node, stats, gamma, beta, False)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        both = gamma_and_beta(node.weights, known_channels(self, src.shape, 2))
        tables = [b.get(v) for v in (both["gamma"], both["beta"], *_moving(node))]
        b.result_first(node.output, "BatchNormalization", [b.get_first(src), *tables], epsilon=self.epsilon,
                       momentum=self.momentum)

    def as_affine(self, g: Graph, node: Node) -> tuple[Value, Value] | None:
        both = gamma_and_beta(node.weights, known_channels(self, node.output.shape, 2))
        scale, shift = g.apply(AffineTerms(self.epsilon, node.name), both["gamma"], both["beta"], *_moving(node))
        return scale, shift


def _moving(node: Node) -> tuple[Value, Value]:
    return node.weights["moving_mean"], node.weights["moving_variance"]


class MovingUpdate(Layer):
    """Moves the running statistics in place: inputs the statistics of the batch, moving mean and variance; no output."""

    n_inputs = 3
    n_outputs: ClassVar[int] = 0

    def __init__(self, momentum: float, name: str):
        super().__init__(name=f"{name}/moving")
        self.momentum = momentum

    def output_shapes(self, *shapes: Shape) -> list[Shape]:
        return []

    def lower(self, b: PlanBuilder, node: Node) -> None:
        stats, *moving = (b.view(v) for v in node.inputs)
        native_step(b, "moving_update", [stats], moving, {"momentum": self.momentum}, why="in place")


class AffineTerms(Layer):
    """Scale and shift of the inference form: inputs gamma, beta, moving mean, moving variance."""

    n_inputs = 4
    n_outputs: ClassVar[int] = 2

    def __init__(self, epsilon: float, name: str):
        super().__init__(name=f"{name}/affine")
        self.epsilon = epsilon

    def output_shapes(self, *shapes: Shape) -> list[Shape]:
        return [shapes[0], shapes[0]]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        native_step(b, "affine_terms", [b.view(v) for v in node.inputs], [b.view(v) for v in node.outputs],
                    {"epsilon": self.epsilon})
