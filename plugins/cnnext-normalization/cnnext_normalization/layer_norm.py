"""Normalization of each pixel over its channels: layer and root mean square normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.kernels import epilogue_params
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers.attributes import boolean, data_format, initializer, number, regularizer
from cnnext.layers.layer import Gradients, Layer, ParameterSpec
from cnnext_normalization._channels import gamma_and_beta
from cnnext_normalization._lowering import (
    known_channels,
    like_src,
    native_step,
    sample_rows,
    scale_and_center,
    shard_count,
    tile_rows,
)

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2


class RowNorm(Layer):
    """What normalization over the last axis has in common."""

    accepts_epilogue = True
    centered: ClassVar[bool] = True
    epsilon: float
    scale: bool
    center: bool = False

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return scale_and_center(self, known_channels(self, shapes[0], 2))

    def output_shape(self, *shapes: Shape) -> Shape:
        known_channels(self, shapes[0], 2)
        return shapes[0]

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (x,), dy = node.inputs, diff_dst[0]
        assert dy is not None
        gamma = gamma_and_beta(node.weights, known_channels(self, x.shape, 2))["gamma"]
        diff, diff_both = g.apply(RowNormBackward(self.epsilon, self.centered, node.name), x, gamma, dy)
        rows = {"gamma": 0, "beta": 1}
        return Gradients([diff], {key: g.apply1(TableRow(rows[key], f"{node.name}/diff_{key}"), diff_both)
                                  for key in node.weights})

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst, *add = sample_rows(like_src(b, node), False)
        both = gamma_and_beta(node.weights, dst.shape[-1])
        rows, epilogue = tile_rows(dst.shape[-1]), no_epilogue(node)
        params = {"rows": rows, "centered": self.centered, "epsilon": self.epsilon, **epilogue_params(epilogue)}
        native_step(b, "row_norm", [src, b.view(both["gamma"]), b.view(both["beta"]), *add], [dst], params,
                    tiles=-(-math.prod(dst.shape[1:-1]) // rows), macs=3 * dst.size,
                    why=" + ".join(["rows", *epilogue.names]))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        axis, x = len(src.shape) - 1, b.get(src)
        gamma, beta = gamma_and_beta(node.weights, known_channels(self, src.shape, 2)).values()
        if self.centered and b.opset >= 17:
            b.result(node.output, "LayerNormalization", [x, b.get(gamma), b.get(beta)], axis=-1, epsilon=self.epsilon)
            return
        if not self.centered and b.opset >= 23:
            b.result(node.output, "RMSNormalization", [x, b.get(gamma)], axis=-1, epsilon=self.epsilon)
            return
        if self.centered:
            inputs, attributes = b.reduction("ReduceMean", x, [axis])
            x = b.op("Sub", x, b.op("ReduceMean", *inputs, **attributes))
        inputs, attributes = b.reduction("ReduceMean", b.op("Mul", x, x), [axis])
        square = b.op("ReduceMean", *inputs, **attributes)
        x = b.op("Div", x, b.op("Sqrt", b.op("Add", square, b.scalar(self.epsilon))))
        if self.centered:
            b.result(node.output, "Add", [b.op("Mul", x, b.get(gamma)), b.get(beta)])
        else:
            b.result(node.output, "Mul", [x, b.get(gamma)])


class LayerNorm(RowNorm):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta``, over the channels of each pixel.

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
    J. Ba, J. Kiros, G. Hinton, "Layer normalization", 2016.
    """

    type_name = "normalization/LayerNorm@1"

    epsilon: float = number(1e-3, above=0)
    center: bool = boolean(True)
    scale: bool = boolean(True)
    data_format: str = data_format()
    gamma_initializer: Any = initializer("ones")
    beta_initializer: Any = initializer("zeros")
    gamma_regularizer: L1L2 | None = regularizer()
    beta_regularizer: L1L2 | None = regularizer()


class RMSNorm(RowNorm):
    """``x / sqrt(mean(x^2) + epsilon) * gamma``, over the channels of each pixel.

    Parameters
    ----------
    epsilon : float
        Greater than 0.
    scale : bool
        Learn gamma.
    data_format : "channels_last" or "channels_first"
    gamma_initializer : str, Initializer, array or function of a shape
    gamma_regularizer : str or L1L2, optional

    Weights
    -------
    gamma (C,)

    References
    ----------
    B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.
    """

    type_name = "normalization/RMSNorm@1"
    centered = False

    epsilon: float = number(1e-6, above=0)
    scale: bool = boolean(True)
    data_format: str = data_format()
    gamma_initializer: Any = initializer("ones")
    gamma_regularizer: L1L2 | None = regularizer()


class RowNormBackward(Layer):
    """Gradients with respect to the source, and to gamma and beta as a table (2, C): inputs x, gamma, diff_dst."""

    n_inputs = 3
    n_outputs: ClassVar[int] = 2
    dense_outputs = True

    def __init__(self, epsilon: float, centered: bool, name: str):
        super().__init__(name=f"{name}/backward")
        self.epsilon = epsilon
        self.centered = centered

    def output_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        return [shapes[0], (2, *shapes[1])]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        x, gamma, dy = (b.view(v) for v in node.inputs)
        diff, diff_both = (b.view(v) for v in node.outputs)
        x, dy, diff = sample_rows([x, dy, diff], False)
        rows, channels = math.prod(x.shape[1:-1]), x.shape[-1]
        shards = shard_count(1, rows, channels)
        partial = b.temp((shards, 2 * channels))
        target = partial if shards > 1 else View(diff_both.storage, diff_both.offset, (1, 2 * channels), (2 * channels, 1))
        native_step(b, "row_norm_backward", [x, gamma, dy], [diff, target],
                    {"shards": shards, "centered": self.centered, "epsilon": self.epsilon}, tiles=shards,
                    scratch_bytes=8 * channels, macs=6 * x.size, why=f"{shards} shards of {rows} rows")
        if shards > 1:
            b.step("sum_shards", [partial], [diff_both], {"count": 2 * channels, "shards": shards, "chunk": 2 * channels},
                   why=f"{shards} shards in fixed order")


class TableRow(Layer):
    """One row of a table (2, C), read in place."""

    def __init__(self, row: int, name: str):
        super().__init__(name=name)
        self.row = row

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][1],)

    def view(self, node: Node, src: View) -> View:
        return View(src.storage, src.offset + self.row * src.strides[0], src.shape[1:], src.strides[1:])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst = b.view(node.inputs[0]), b.view(node.output)
        if src.storage is not dst.storage:
            b.step("copy", [self.view(node, src)], [dst], {"rows": 1, "chunk": max(dst.size, 1)}, why="copy")
