"""Activations: elementwise functions without weights, one class each over one kernel, and their names.

Each class names its function in the table of ``include/cnnext_plugin.h`` and that function's constants; everything else
is shared. The functions that look at a whole row (`Softmax`) or have weights (`PReLU`) have files of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, pi, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnext._native.executor import UNARY, UNARY_SAVES_OUTPUT
from cnnext.errors import unknown
from cnnext.graph.graph import Graph, Node, Shape, Value, constant
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import row_step
from cnnext.layers.attributes import boolean, number
from cnnext.layers.layer import Gradients, Images, Layer
from cnnext.layers.softmax import LogSoftmax, Softmax

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

Function = tuple[str, tuple[float, ...]]


class Activation(Layer):
    """What the elementwise activations share: any shape in, the same shape out.

    Attributes
    ----------
    function : tuple
        Name of the elementwise function and its constants; a constant that is an attribute stands there by name.
    """

    function: ClassVar[tuple[str, tuple[float | str, ...]]]
    onnx_op: ClassVar[str] = ""
    onnx_attributes: ClassVar[dict[str, str]] = {}

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def as_epilogue(self) -> Function:
        name, constants = self.function
        return name, tuple(float(getattr(self, c)) if isinstance(c, str) else c for c in constants)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([unary_backward(g, node, self.as_epilogue(), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_unary(b, node, self.as_epilogue())

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        op_type, inputs, attributes = self.onnx_call(b, b.get(src, order))
        b.result(node.output, op_type, inputs, order, **attributes)

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        """The operator that makes the result of the tensor ``x``, its inputs and attributes; others before it are appended.

        Without this rule: the operator named ``onnx_op``, with ``onnx_attributes`` of it by the names of the layer's.
        """
        return self.onnx_op, [x], {theirs: getattr(self, ours) for theirs, ours in self.onnx_attributes.items()}


class UnaryBackward(Layer):
    """Gradient of an elementwise function: inputs its source or its result, then diff_dst."""

    n_inputs = 2

    def __init__(self, function: Function, name: str):
        super().__init__(name=f"{name}/diff_src")
        self.function = function

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[1]

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
        return self, axes

    def images(self, node: Node) -> Images:
        return Images((True, True))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        _unary_step(b, "unary_backward", self.function, [b.view(v) for v in node.inputs], b.view(node.output))


def unary_backward(g: Graph, node: Node, function: Function, diff_dst: Value) -> Value:
    """Append the gradient of a node that is an elementwise function."""
    saved = node.output if UNARY_SAVES_OUTPUT[function[0]] else node.inputs[0]
    return g.apply1(UnaryBackward(function, node.layer.name), saved, diff_dst)


def lower_unary(b: PlanBuilder, node: Node, function: Function) -> None:
    """Append the step of an elementwise function."""
    _unary_step(b, "unary", function, [b.view(node.inputs[0])], b.view(node.output))


def _unary_step(b: PlanBuilder, kernel: str, function: Function, src: Sequence[View], dst: View) -> None:
    name, constants = function
    first, second = (*constants, 0.0, 0.0)[:2]
    row_step(b, kernel, src, [dst], {"op": UNARY[name], "first": first, "second": second}, why=name)


class ReLU(Activation):
    """``max(x, 0)``; the gradient at 0 is 0."""

    type_name = "cnnext/ReLU@1"
    function = ("clip", (0.0, inf))
    onnx_op = "Relu"


class ReLU6(Activation):
    """``min(max(x, 0), 6)`` (Howard et al. 2017, MobileNets)."""

    type_name = "cnnext/ReLU6@1"
    function = ("clip", (0.0, 6.0))

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        return "Clip", [x, b.scalar(0.0), b.scalar(6.0)], {}


class Clip(Activation):
    """``min(max(x, minimum), maximum)``; the gradient is 1 strictly between the bounds, 0 at and beyond them.

    Parameters
    ----------
    minimum, maximum : float
        ``minimum <= maximum``; infinite (the default) where there is no bound.
    """

    type_name = "cnnext/Clip@1"
    function = ("clip", ("minimum", "maximum"))

    minimum: float = number(-inf, infinite=True)
    maximum: float = number(inf, infinite=True)

    def validate(self) -> None:
        if self.minimum > self.maximum:
            raise self.error("minimum", f"be at most `maximum`, {self.maximum}", self.minimum)

    def is_identity(self, training: bool) -> bool:
        return self.as_epilogue()[1] == (-inf, inf)

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        bounds = ["" if abs(bound) == inf else b.scalar(bound) for bound in (self.minimum, self.maximum)]
        return "Clip", [x, *bounds], {}


class LeakyReLU(Activation):
    """``x`` where it is positive, else ``negative_slope * x`` (Maas et al. 2013).

    Parameters
    ----------
    negative_slope : float
        Of any sign.
    """

    type_name = "cnnext/LeakyReLU@1"
    function = ("leaky_relu", ("negative_slope",))
    onnx_op = "LeakyRelu"
    onnx_attributes = {"alpha": "negative_slope"}

    negative_slope: float = number(0.01)

    def as_epilogue(self) -> Function:
        # leaky_relu tells the sides apart by the sign of its result, which other slopes lose
        if self.negative_slope > 0:
            return super().as_epilogue()
        return ("leaky_relu_any", (self.negative_slope,)) if self.negative_slope else ("clip", (0.0, inf))


class ELU(Activation):
    """``x`` where it is positive, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2015).

    Parameters
    ----------
    alpha : float
        Of any sign.
    """

    type_name = "cnnext/ELU@1"
    function = ("elu", ("alpha",))
    onnx_op = "Elu"
    onnx_attributes = {"alpha": "alpha"}

    alpha: float = number(1.0)

    def as_epilogue(self) -> Function:
        if self.alpha > 0:
            return super().as_epilogue()
        return ("elu_any", (self.alpha,)) if self.alpha else ("clip", (0.0, inf))


class CELU(Activation):
    """``x`` where it is positive, else ``alpha * (exp(x / alpha) - 1)``: its slope is continuous (Barron 2017).

    Parameters
    ----------
    alpha : float
        Greater than 0.
    """

    type_name = "cnnext/CELU@1"
    function = ("celu", ("alpha",))
    onnx_op = "Celu"
    onnx_attributes = {"alpha": "alpha"}

    alpha: float = number(1.0, above=0)


class SELU(Activation):
    """``1.0507 * ELU(x, alpha=1.6733)``: keeps mean 0 and variance 1 from layer to layer (Klambauer et al. 2017)."""

    type_name = "cnnext/SELU@1"
    function = ("selu", ())
    onnx_op = "Selu"


class GELU(Activation):
    """``x * P(X <= x)`` for X standard normal (Hendrycks & Gimpel 2016).

    Parameters
    ----------
    approximate : bool
        ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`` instead.
    """

    type_name = "cnnext/GELU@1"
    function = ("gelu", ())

    approximate: bool = boolean(False)

    def as_epilogue(self) -> Function:
        return ("gelu_tanh", ()) if self.approximate else super().as_epilogue()

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        if b.opset >= 20:
            return "Gelu", [x], {"approximate": "tanh" if self.approximate else "none"}
        if self.approximate:
            cube = b.op("Mul", b.op("Pow", x, b.scalar(3.0)), b.scalar(0.044715))
            share = b.op("Tanh", b.op("Mul", b.op("Add", x, cube), b.scalar(sqrt(2 / pi))))
        else:
            share = b.op("Erf", b.op("Mul", x, b.scalar(sqrt(0.5))))
        return "Mul", [b.op("Mul", x, b.scalar(0.5)), b.op("Add", share, b.scalar(1.0))], {}


class Sigmoid(Activation):
    """``1 / (1 + exp(-x))``."""

    type_name = "cnnext/Sigmoid@1"
    function = ("sigmoid", ())
    onnx_op = "Sigmoid"


class HardSigmoid(Activation):
    """``min(max(slope * x + offset, 0), 1)``.

    Parameters
    ----------
    slope, offset : float
        1/6 and 1/2 as in PyTorch and Keras 3; ONNX has a slope of 0.2.
    """

    type_name = "cnnext/HardSigmoid@1"
    function = ("hard_sigmoid", ("slope", "offset"))
    onnx_op = "HardSigmoid"
    onnx_attributes = {"alpha": "slope", "beta": "offset"}

    slope: float = number(1 / 6)
    offset: float = number(0.5)


class Tanh(Activation):
    """Hyperbolic tangent."""

    type_name = "cnnext/Tanh@1"
    function = ("tanh", ())
    onnx_op = "Tanh"


class SiLU(Activation):
    """``x * sigmoid(beta * x)`` (Elfwing et al. 2017), also called swish (Ramachandran et al. 2017).

    Parameters
    ----------
    beta : float
    """

    type_name = "cnnext/SiLU@1"
    function = ("silu", ())

    beta: float = number(1.0)

    def as_epilogue(self) -> Function:
        return super().as_epilogue() if self.beta == 1 else ("swish", (self.beta,))

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        scaled = x if self.beta == 1 else b.op("Mul", x, b.scalar(self.beta))
        return "Mul", [x, b.op("Sigmoid", scaled)], {}


class HardSwish(Activation):
    """``scale * x * min(max(x/6 + 1/2, 0), 1) + shift`` (Howard et al. 2019, MobileNetV3).

    Parameters
    ----------
    scale, shift : float
        1 and 0 in the paper; mobile networks for text learn them.
    """

    type_name = "cnnext/HardSwish@1"
    function = ("scaled_hard_swish", ("scale", "shift"))

    scale: float = number(1.0)
    shift: float = number(0.0)

    def as_epilogue(self) -> Function:
        return ("hard_swish", ()) if (self.scale, self.shift) == (1.0, 0.0) else super().as_epilogue()

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        if (self.scale, self.shift) != (1.0, 0.0):
            gated = b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
            return "Add", [b.op("Mul", gated, b.scalar(self.scale)), b.scalar(self.shift)], {}
        if b.opset >= 14:
            return "HardSwish", [x], {}
        return "Mul", [x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)], {}


class Mish(Activation):
    """``x * tanh(softplus(x))`` (Misra 2019)."""

    type_name = "cnnext/Mish@1"
    function = ("mish", ())

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        if b.opset >= 18:
            return "Mish", [x], {}
        return "Mul", [x, b.op("Tanh", b.op("Softplus", x))], {}


class Softplus(Activation):
    """``log(1 + exp(x))``."""

    type_name = "cnnext/Softplus@1"
    function = ("softplus", ())
    onnx_op = "Softplus"


class Softsign(Activation):
    """``x / (1 + |x|)``."""

    type_name = "cnnext/Softsign@1"
    function = ("softsign", ())
    onnx_op = "Softsign"


class Affine(Activation):
    """``x * scale + shift``, the same for all elements.

    Parameters
    ----------
    scale, shift : float
    """

    function = ("affine", ("scale", "shift"))

    scale: float = number(1.0)
    shift: float = number(0.0)

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        return "Add", [b.op("Mul", x, b.scalar(self.scale)), b.scalar(self.shift)], {}

    def as_affine(self, g: Graph, node: Node) -> tuple[Value, Value] | None:
        channels = node.output.shape[-1:]
        if not channels or not channels[0]:
            return None
        scale, shift = (constant(np.full(channels[0], term, np.float32), "term") for term in (self.scale, self.shift))
        return scale, shift


class ThresholdedReLU(Activation):
    """``x`` where it exceeds ``threshold``, else 0 (Konda et al. 2014).

    Parameters
    ----------
    threshold : float
    """

    type_name = "cnnext/ThresholdedReLU@1"
    function = ("thresholded_relu", ("threshold",))
    onnx_op = "ThresholdedRelu"
    onnx_attributes = {"alpha": "threshold"}

    threshold: float = number(1.0)


class Shrink(Activation):
    """``x + bias`` below ``-limit``, ``x - bias`` above ``limit``, 0 between; with a bias of ``limit`` soft shrinkage.

    Parameters
    ----------
    limit, bias : float
    """

    type_name = "cnnext/Shrink@1"
    function = ("shrink", ("limit", "bias"))
    onnx_op = "Shrink"
    onnx_attributes = {"lambd": "limit", "bias": "bias"}

    limit: float = number(0.5)
    bias: float = number(0.0)


# What a layer's ``activation`` argument accepts by name.
BY_NAME: dict[str, type[Layer]] = {
    "relu": ReLU,
    "relu6": ReLU6,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "celu": CELU,
    "selu": SELU,
    "gelu": GELU,
    "sigmoid": Sigmoid,
    "hard_sigmoid": HardSigmoid,
    "tanh": Tanh,
    "silu": SiLU,
    "swish": SiLU,
    "hard_swish": HardSwish,
    "mish": Mish,
    "softplus": Softplus,
    "softsign": Softsign,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
}


def activation_layer(value: str | Layer, name: str | None = None) -> Layer:
    """A new layer for a value of an ``activation`` attribute.

    Parameters
    ----------
    value : str or Layer
        A key of ``BY_NAME``, or a layer, of which a copy with the same attributes is made.
    name : str, optional

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if isinstance(value, Layer):
        return type(value)(name=name, **{key: getattr(value, key) for key in type(value).attributes})
    if value not in BY_NAME:
        raise ValueError("activation: " + unknown("activation", value, BY_NAME))
    return BY_NAME[value](name=name)
