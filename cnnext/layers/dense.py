"""``Dense``: every output sees every input; a convolution of one pixel."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers._taps import Window2D, lower_backward_data, lower_backward_weights, lower_convolution
from cnnext.layers._weighted import BackwardData, BackwardWeights, fold_into_weights, weighted_gradient, weights_and_bias
from cnnext.layers.attributes import activation, boolean, initializer, integer, regularizer
from cnnext.layers.layer import Gradients, Layer, ParameterSpec, to_channels_first

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2

POINT = Window2D((1, 1))


class Dense(Layer):
    """``dst[..., out] = bias[out] + sum over in of src[..., in] * weights[in, out]``, over the last axis.

    Parameters
    ----------
    units : int
        Outputs.
    use_bias : bool
    activation : str or layer, optional
        Applied in the kernel's epilogue.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer
        As in ``Conv2D``.

    Weights
    -------
    weights (IN, OUT), bias (OUT,)
    """

    type_name = "cnnext/Dense@1"
    accepts_epilogue = True
    sees_everything = True

    units: int = integer(minimum=1)
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    kernel_initializer: Any = initializer("glorot_uniform")
    bias_initializer: Any = initializer("zeros")
    kernel_regularizer: L1L2 | None = regularizer()
    bias_regularizer: L1L2 | None = regularizer()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        features = self.features(shapes[0])
        return weights_and_bias(self, (features, self.units), features, self.units, (self.units,))

    def features(self, shape: Shape) -> int:
        """Inputs per position, checked."""
        if len(shape) < 2:
            raise self.error("src", "have rank 2 or more, (N, ..., IN)", shape)
        features = shape[-1]
        if not features:
            raise self.error("src", "have a known number of features on its last axis", shape)
        return features

    def output_shape(self, *shapes: Shape) -> Shape:
        self.features(shapes[0])
        return (*shapes[0][:-1], self.units)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        return weighted_gradient(g, node, diff_dst[0], DenseBackwardData(node.inputs[0].shape, self.name),
                                 DenseBackwardWeights(node.weights["weights"].shape, self.name))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        bias = b.view(node.weights["bias"]) if "bias" in node.weights else None
        src, dst = pixels(b.view(node.inputs[0])), pixels(b.view(node.output))
        lower_convolution(b, src, matrix(b.view(node.weights["weights"])), bias, dst, POINT,
                          no_epilogue(node))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,), weights, bias = node.inputs, node.weights["weights"], b.weights_of(node, "bias")
        rank, size = len(src.shape), tuple(n or 0 for n in weights.shape)
        if rank == 2:
            flat = b.flattened(src)
            if flat is None:
                matrix, x = b.weight(weights), b.get(src)
            else:  # the rows of the matrix in the order of the tensor: no Transpose between a convolution and this layer
                x, image, order = flat
                matrix = b.weight(weights, [*(axis - 1 for axis in order[1:]), len(image) - 1],
                                  split=(*image[1:], size[1]), shape=size)
            b.result(node.output, "Gemm", [x, matrix, *bias])
        elif rank in (3, 4) and b.layout(src) == to_channels_first(tuple(range(rank))):
            kernel = b.weight(weights, (1, 0), shape=(*size[::-1], *[1] * (rank - 2)))
            b.result_first(node.output, "Conv", [b.get_first(src), kernel, *bias])
        elif bias:
            b.result(node.output, "Add", [b.op("MatMul", b.get(src), b.weight(weights)), *bias])
        else:
            b.result(node.output, "MatMul", [b.get(src), b.weight(weights)])

    def fold_affine(self, g: Graph, node: Node, scale: Value, shift: Value) -> dict[str, Value] | None:
        return fold_into_weights(g, node, scale, shift)

    def macs(self, node: Node) -> int:
        return prod(n or 1 for n in node.inputs[0].shape) * self.units


class DenseBackwardData(BackwardData):
    """Gradient of ``Dense`` with respect to its source."""

    accepts_epilogue = True

    def lower(self, b: PlanBuilder, node: Node) -> None:
        diff_dst, weights = (b.view(v) for v in node.inputs)
        lower_backward_data(b, pixels(diff_dst), matrix(weights), None, pixels(b.view(node.output)), POINT,
                            no_epilogue(node))


class DenseBackwardWeights(BackwardWeights):
    """Gradient of ``Dense`` with respect to its weights."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, diff_dst = (pixels(b.view(v)) for v in node.inputs)
        lower_backward_weights(b, src, diff_dst, matrix(b.view(node.output)), POINT)


def pixels(view: View) -> View:
    """(..., C) as one row of pixels (1, 1, M, C); rank 4 images with padded pixels stay images."""
    flat = view.reshaped((1, 1, prod(view.shape[:-1]), view.shape[-1]))
    if flat is not None:
        return flat
    if len(view.shape) == 4:
        return view
    raise ValueError(f"a dense layer reads rows at one distance. Received strides {view.strides} of shape {view.shape}.")


def matrix(view: View) -> View:
    """Weights (IN, OUT) as (1, 1, IN, OUT)."""
    return View(view.storage, view.offset, (1, 1, *view.shape), (view.size, view.size, *view.strides))
