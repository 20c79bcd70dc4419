"""Elementary functions of each element, in the manner of ``activation.py``: one class each over one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers import numpy_level
from cnnext.layers.activation import Activation, Function, lower_unary, unary_backward
from cnnext.layers.attributes import number
from cnnext.layers.elementwise import broadcast_shape
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Exp(Activation):
    """``exp(x)``."""

    type_name = "cnnext/Exp@1"
    function = ("exp", ())
    onnx_op = "Exp"


class Log(Activation):
    """Natural logarithm: minus infinity at 0, NaN below."""

    type_name = "cnnext/Log@1"
    function = ("log", ())
    onnx_op = "Log"


class Sqrt(Activation):
    """Square root; NaN below 0."""

    type_name = "cnnext/Sqrt@1"
    function = ("sqrt", ())
    onnx_op = "Sqrt"


class Abs(Activation):
    """``|x|``; the gradient at 0 is 0."""

    type_name = "cnnext/Abs@1"
    function = ("abs", ())
    onnx_op = "Abs"


class Negate(Activation):
    """``-x``."""

    type_name = "cnnext/Negate@1"
    function = ("affine", (-1.0, -0.0))
    onnx_op = "Neg"


class Reciprocal(Activation):
    """``1 / x``."""

    type_name = "cnnext/Reciprocal@1"
    function = ("reciprocal", ())
    onnx_op = "Reciprocal"


class Square(Activation):
    """``x * x``."""

    type_name = "cnnext/Square@1"
    function = ("square", ())

    def onnx_call(self, b: OnnxBuilder, x: str) -> tuple[str, list[str], dict[str, Any]]:
        return "Mul", [x, x], {}


class Floor(Activation):
    """The next whole number below; its gradient is 0, as that of all steps."""

    type_name = "cnnext/Floor@1"
    function = ("floor", ())
    onnx_op = "Floor"


class Ceil(Activation):
    """The next whole number above."""

    type_name = "cnnext/Ceil@1"
    function = ("ceil", ())
    onnx_op = "Ceil"


class Round(Activation):
    """The nearest whole number, and of two the even one, as `numpy.round`."""

    type_name = "cnnext/Round@1"
    function = ("round", ())
    onnx_op = "Round"


class Sign(Activation):
    """1, 0 or -1."""

    type_name = "cnnext/Sign@1"
    function = ("sign", ())
    onnx_op = "Sign"


class Erf(Activation):
    """The error function ``2 / sqrt(pi)`` times the integral of ``exp(-t^2)`` from 0 to x."""

    type_name = "cnnext/Erf@1"
    function = ("erf", ())
    onnx_op = "Erf"


# Exponents whose power is a function of its own: quicker, and within an ulp and a half.
_BY_EXPONENT: dict[float, Function] = {
    -1.0: ("reciprocal", ()),
    -0.5: ("rsqrt", ()),
    0.5: ("sqrt", ()),
    1.0: ("identity", ()),
    2.0: ("square", ()),
    3.0: ("cube", ()),
}
# The kernel computes exp(exponent * log |x|), whose error grows with the exponent.
_LARGEST_NATIVE_EXPONENT = 8.0


class Power(Layer):
    """``x ** exponent`` of one value, or ``x ** y`` of two whose shapes broadcast.

    A negative x to a power that is no whole number is NaN, as in `numpy.power`.

    Parameters
    ----------
    exponent : float, optional
        Without one the layer takes two values, the base and the exponent. Two values, an exponent of 0 and those beyond
        8 in magnitude are computed with NumPy.
    """

    type_name = "cnnext/Power@1"
    n_inputs = None

    exponent: float | None = number(None, optional=True)

    def output_shape(self, *shapes: Shape) -> Shape:
        wanted = 1 if self.exponent is not None else 2
        if len(shapes) != wanted:
            raise self.error("inputs", f"be {wanted} value(s)", len(shapes))
        return broadcast_shape(self, shapes)

    def as_epilogue(self) -> Function | None:
        if self.exponent is None or not 0 < abs(self.exponent) <= _LARGEST_NATIVE_EXPONENT:
            return None
        return _BY_EXPONENT.get(self.exponent, ("power", (self.exponent,)))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        function, (dy,) = self.as_epilogue(), diff_dst
        if function is None:
            return numpy_level.gradient(self, g, node, diff_dst)
        assert dy is not None
        return Gradients([unary_backward(g, node, function, dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        function = self.as_epilogue()
        if function is None:
            numpy_level.lower_forward(self, b, node)
        else:
            lower_unary(b, node, function)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        order = b.layout(*node.inputs)
        base, *exponent = (b.operand(v, order) for v in node.inputs)
        if self.exponent is not None:
            exponent = [b.scalar(self.exponent)]
        b.result(node.output, "Pow", [base, *exponent], order)

    def forward(self, ctx: Any, *src: np.ndarray) -> np.ndarray:
        ctx.base, ctx.exponent = src if self.exponent is None else (src[0], np.float32(self.exponent))
        with np.errstate(all="ignore"):
            ctx.dst = np.power(ctx.base, ctx.exponent)
        return ctx.dst

    def backward(self, ctx: Any, *diff_dst: np.ndarray) -> list[np.ndarray]:
        (dy,), base, exponent = diff_dst, ctx.base, ctx.exponent
        with np.errstate(all="ignore"):
            diff_base = dy * np.where(exponent == 0, np.float32(0), exponent * np.power(base, exponent - 1))
            if self.exponent is not None:
                return [diff_base]
            # 0^y is constantly 0 for y > 0, though log(0) is not finite
            diff_exponent = dy * np.where((base == 0) & (exponent >= 0), np.float32(0), ctx.dst * np.log(base))
        return [_sum_to(diff_base, base.shape), _sum_to(diff_exponent, exponent.shape)]


def _sum_to(array: np.ndarray, shape: Shape) -> np.ndarray:
    """The sum over the axes along which ``shape`` was repeated."""
    summed = array.sum(axis=tuple(range(array.ndim - len(shape))))
    return summed.sum(axis=tuple(axis for axis, n in enumerate(shape) if n == 1), keepdims=True)
