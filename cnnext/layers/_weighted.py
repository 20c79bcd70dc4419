"""What the layers with weights and a bias share: their gradient operators, gradient rule and affine folding."""

from __future__ import annotations

from typing import Any

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.elementwise import ScaleChannels, SumPixels, add, multiply, reduce_to
from cnnext.layers.layer import Gradients, Layer, ParameterSpec


def weights_and_bias(layer: Any, shape: tuple[int, ...], fan_in: int, fan_out: int, bias_shape: tuple[int, ...],
                     kernel: str = "kernel") -> dict[str, ParameterSpec]:
    """The parameters of a layer with weights and, if it wants one, a bias; ``kernel`` begins its attributes' names."""
    regularizer = getattr(layer, f"{kernel}_regularizer")
    specs = {"weights": ParameterSpec(shape, getattr(layer, f"{kernel}_initializer"), fan_in, fan_out,
                                      regularizer=regularizer)}
    if layer.use_bias:
        specs["bias"] = bias_spec(layer, bias_shape)
    return specs


def bias_spec(layer: Any, shape: tuple[int, ...]) -> ParameterSpec:
    """The bias of a layer."""
    return ParameterSpec(shape, layer.bias_initializer, regularizer=layer.bias_regularizer)


class BackwardData(Layer):
    """Base of the operators for the gradient with respect to the source: inputs diff_dst and the weights."""

    n_inputs = 2

    def __init__(self, src_shape: Shape, name: str, window: Any = None):
        super().__init__(name=f"{name}/diff_src")
        self.src_shape = src_shape
        self.geometry = window

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], *self.src_shape[1:])


class BackwardWeights(Layer):
    """Base of the operators for the gradient with respect to the weights: inputs src and diff_dst."""

    n_inputs = 2
    dense_outputs = True

    def __init__(self, weights_shape: Shape, name: str, window: Any = None):
        super().__init__(name=f"{name}/diff_weights")
        self.weights_shape = weights_shape
        self.geometry = window

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.weights_shape


def weighted_gradient(g: Graph, node: Node, diff_dst: Value | None, backward_data: BackwardData,
                      backward_weights: BackwardWeights, transposed: bool = False) -> Gradients:
    """Gradients of source, weights and bias.

    With ``transposed`` the layer is the adjoint of the operators' own: their source is its result.
    """
    assert diff_dst is not None
    src = node.inputs[0]
    pair = (diff_dst, src) if transposed else (src, diff_dst)
    diffs: dict[str, Value | None] = {"weights": g.apply1(backward_weights, *pair)}
    bias = node.weights.get("bias")
    if bias is not None and len(bias.shape) == 1:
        diffs["bias"] = g.apply1(SumPixels(name=f"{node.layer.name}/diff_bias"), diff_dst)
    elif bias is not None:
        diffs["bias"] = reduce_to(g, diff_dst, bias.shape)
    return Gradients([g.apply1(backward_data, diff_dst, node.weights["weights"])], diffs)


def fold_into_weights(g: Graph, node: Node, scale: Value, shift: Value,
                      scale_weights: type[Layer] = ScaleChannels) -> dict[str, Value]:
    """Weights and bias with a scale and shift per output channel folded in: (W x + b) s + t = (W s) x + (b s + t)."""
    weights = dict(node.weights)
    weights["weights"] = g.apply1(scale_weights(name=f"{node.name}/folded"), node.weights["weights"], scale)
    weights["bias"] = add(g, multiply(g, node.weights["bias"], scale), shift) if "bias" in node.weights else shift
    return weights
