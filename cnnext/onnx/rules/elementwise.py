"""Functions of one value, and joins of several."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np

from cnnext.graph.graph import FLOAT32, Value
from cnnext.layers.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Affine,
    Clip,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Mish,
    ReLU,
    Shrink,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
    ThresholdedReLU,
)
from cnnext.layers.elementary import Abs, Ceil, Erf, Exp, Floor, Log, Negate, Power, Reciprocal, Round, Sign, Sqrt
from cnnext.layers.elementwise import Add, Average, Divide, Maximum, Minimum, Multiply, Subtract
from cnnext.layers.layer import Layer
from cnnext.layers.prelu import PReLU
from cnnext.layers.softmax import LogSoftmax, Softmax
from cnnext.onnx.site import Site
from cnnext.onnx.support import Rule


def unary(kind: type[Layer], **options: Any) -> Rule:
    """The rule of a function without attributes."""
    return lambda s: s.apply(kind(name=s.name, **options), s.value(0))


def clip(s: Site) -> Value | None:
    if any(s.has(i) and s.known(i) is None for i in (1, 2)):
        return None
    low, high = (_bound(s, i, name, default) for i, name, default in ((1, "min", -inf), (2, "max", inf)))
    return s.apply(Clip(min(low, high), high, name=s.name), s.value(0))


def _bound(s: Site, i: int, name: str, default: float) -> float:
    return float(s.contents(i).reshape(-1)[0]) if s.has(i) else float(s.attribute(name, default))


def with_numbers(kind: type[Layer], **attributes: tuple[str, float]) -> Rule:
    """The rule of a function with numbers: keyword of the layer = (attribute of the operator, its default)."""
    return lambda s: s.apply(kind(name=s.name, **{key: float(s.attribute(*given)) for key, given in attributes.items()}),
                             s.value(0))


def selu(s: Site) -> Value | None:
    usual = np.allclose([s.attribute("alpha", 1.67326319), s.attribute("gamma", 1.05070102)], [1.67326319, 1.05070102], 1e-6)
    return s.apply(SELU(name=s.name), s.value(0)) if usual else None


def gelu(s: Site) -> Value:
    return s.apply(GELU(s.attribute("approximate", "none") == "tanh", name=s.name), s.value(0))


def swish(s: Site) -> Value | None:
    return s.apply(SiLU(name=s.name), s.value(0)) if float(s.attribute("alpha", 1.0)) == 1 else None


def prelu(s: Site) -> Value | None:
    """One slope for all, or one for each channel; others are left to NumPy."""
    shape, slope = s.shape(0), s.value(1)
    if len(shape) > 1 and _is_per_channel(tuple(n or 0 for n in slope.shape), shape):
        layer = PReLU(data_format="channels_first", name=s.name)
        return s.apply(layer, s.value(0), slope=s.reshape(slope, (shape[1],)))
    if len(shape) < 2 or len(slope.shape) > len(shape) or prod(s.shape(1)) != 1:
        return None
    known = s.known(1)
    if known is not None and known.reshape(-1)[0] >= 0:
        return s.apply(LeakyReLU(float(known.reshape(-1)[0]), name=s.name), s.value(0))
    slopes = s.apply(Multiply(name=s.name), s.constant(np.ones(shape[1], np.float32)), s.reshape(slope, (1,)))
    return s.apply(PReLU(data_format="channels_first", name=s.name), s.value(0), slope=slopes)


def _is_per_channel(slope: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(slope) == 1 and len(shape) > 2:  # before version 7 one slope for each channel, since then for each last index
        return slope == shape[1:2] != shape[-1:]
    return slope[1 - len(shape) :] == (shape[1], *(1,) * (len(shape) - 2)) and prod(slope) == shape[1]


def softmax(kind: type[Layer]) -> Rule:
    """The rule of a function of all elements along an axis; before version 13, along all axes from one on."""

    def rule(s: Site) -> Value | None:
        shape = s.shape(0)
        if not shape:
            return None
        if s.op.version >= 13:
            return s.apply(kind(s.axis(0), name=s.name), s.value(0))
        axis = s.axis(0, default=1)
        flat = s.reshape(s.value(0), (prod(shape[:axis]), prod(shape[axis:])))
        return s.reshape(s.apply(kind(name=s.name), flat), shape)

    return rule


# Joins


def join(kind: type[Layer]) -> Rule:
    """The rule of a join of values whose shapes broadcast."""

    def rule(s: Site) -> Value | None:
        values = [v for v in s.inputs if v is not None]
        if len(values) == 1:
            return values[0]
        return s.apply(kind(name=s.name), *values)

    return rule


def add(s: Site) -> Value | None:
    for i, other in ((1, 0), (0, 1)):
        scalar = _scalar(s, i)
        if scalar is not None and _holds_result(s, other, i):
            return affine(s, s.value(other), 1.0, scalar)
    return join(Add)(s)  # type: ignore[return-value]


def subtract(s: Site) -> Value | None:
    if (scalar := _scalar(s, 1)) is not None and _holds_result(s, 0, 1):
        return affine(s, s.value(0), 1.0, -scalar)
    if (scalar := _scalar(s, 0)) is not None and _holds_result(s, 1, 0):
        return affine(s, s.value(1), -1.0, scalar)
    known = s.known(1)
    if known is not None and known.dtype == FLOAT32:
        return s.apply(Add(name=s.name), s.value(0), s.constant(-known))
    return s.apply(Subtract(name=s.name), s.value(0), s.value(1))


def multiply(s: Site) -> Value | None:
    for i, other in ((1, 0), (0, 1)):
        scalar = _scalar(s, i)
        if scalar is not None and _holds_result(s, other, i):
            return affine(s, s.value(other), scalar, 0.0)
    return join(Multiply)(s)  # type: ignore[return-value]


def divide(s: Site) -> Value:
    known = s.known(1)
    if known is not None and np.all(known):
        with np.errstate(over="ignore"):
            inverted = (1.0 / known.astype(np.float64)).astype(np.float32)
        if np.isfinite(inverted).all() and np.all(np.abs(inverted) >= np.finfo(np.float32).tiny):
            if known.size == 1 and _holds_result(s, 0, 1):
                return affine(s, s.value(0), float(inverted.reshape(-1)[0]), 0.0)
            return s.apply(Multiply(name=s.name), s.value(0), s.constant(inverted))
    return s.apply(Divide(name=s.name), s.value(0), s.value(1))


def power(s: Site) -> Value | None:
    scalar = _scalar(s, 1)
    if scalar is None or not _holds_result(s, 0, 1):
        return None
    layer = Power(scalar, name=s.name)
    return s.apply(layer, s.value(0)) if layer.as_epilogue() is not None else None


def _scalar(s: Site, i: int) -> float | None:
    """The number that a constant float input of one element holds, if it is finite."""
    known = s.known(i)
    if known is None or known.size != 1 or known.dtype != FLOAT32 or len(s.inputs) != 2:
        return None
    number = float(known.reshape(-1)[0])
    return number if np.isfinite(number) else None


def _holds_result(s: Site, value: int, scalar: int) -> bool:
    """Whether the result has the shape of the value: the scalar has no more axes."""
    return len(s.value(scalar).shape) <= len(s.value(value).shape)


def affine(s: Site, value: Value, scale: float, shift: float) -> Value:
    """value * scale + shift."""
    return value if (scale, shift) == (1.0, 0.0) else s.apply(Affine(scale, shift, name=s.name), value)


def scaled(s: Site, value: Value, factor: float) -> Value:
    """value * factor, at once where the value is constant."""
    if value.data is not None and factor != 1:
        return s.constant(value.data * np.float32(factor))
    return affine(s, value, factor, 0.0)


RULES: dict[str, Rule] = {
    "Relu": unary(ReLU), "Sigmoid": unary(Sigmoid), "Tanh": unary(Tanh), "HardSwish": unary(HardSwish), "Mish": unary(Mish),
    "Softplus": unary(Softplus), "Softsign": unary(Softsign), "Exp": unary(Exp), "Log": unary(Log), "Sqrt": unary(Sqrt),
    "Abs": unary(Abs), "Neg": unary(Negate), "Reciprocal": unary(Reciprocal), "Floor": unary(Floor), "Ceil": unary(Ceil),
    "Round": unary(Round), "Sign": unary(Sign), "Erf": unary(Erf),
    "LeakyRelu": with_numbers(LeakyReLU, negative_slope=("alpha", 0.01)), "Elu": with_numbers(ELU, alpha=("alpha", 1.0)),
    "Celu": with_numbers(CELU, alpha=("alpha", 1.0)),
    "ThresholdedRelu": with_numbers(ThresholdedReLU, threshold=("alpha", 1.0)),
    "HardSigmoid": with_numbers(HardSigmoid, slope=("alpha", 0.2), offset=("beta", 0.5)),
    "Shrink": with_numbers(Shrink, limit=("lambd", 0.5), bias=("bias", 0.0)),
    "Selu": selu, "Gelu": gelu, "Swish": swish, "PRelu": prelu, "Clip": clip,
    "Softmax": softmax(Softmax), "LogSoftmax": softmax(LogSoftmax),
    "Add": add, "Sub": subtract, "Mul": multiply, "Div": divide, "Pow": power,
    "Sum": join(Add), "Mean": join(Average), "Max": join(Maximum), "Min": join(Minimum),
}
