"""Elementwise operators: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from cnnext.errors import message
from cnnext.onnx.numpy_ops.common import (
    BOOL,
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axis_of,
    broadcast,
    refuse,
    same,
    typed,
    widened,
)
from cnnext.onnx.operator import Operator

_PLAIN = frozenset(map(np.dtype, ("bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")))


def _legacy_shape(op: Operator, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that B is seen in: below opset 7, `broadcast` lays its axes on A's from `axis` on, else on A's last."""
    if op.version >= 7 or op.domain:
        return b_shape
    axis = op.attributes.get("axis")
    if not op.attributes.get("broadcast") or axis is None:
        return b_shape
    behind = len(a_shape) - axis_of(op, axis, len(a_shape)) - len(b_shape)
    if behind < 0:
        raise refuse(op, "axis", "leave room for the second input", axis, f"shapes {a_shape}, {b_shape}")
    return b_shape + (1,) * behind


def _binary(ufunc: Any) -> Function:
    def compute(op: Operator, a: Array, b: Array) -> Array:
        if a.dtype != b.dtype:
            raise TypeError(message(op.title, "inputs", "have one dtype", [a.dtype, b.dtype]))
        if op.version < 7:
            b = b.reshape(_legacy_shape(op, a.shape, b.shape))
        return ufunc(a, b)
    return compute


def _binary_shape(op: Operator, types: Types) -> tuple[int, ...]:
    a, b = typed(types, 0)[1], typed(types, 1)[1]
    return broadcast(op, a, _legacy_shape(op, a, b))


def _binary_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 0)[0], _binary_shape(op, types))]


def _comparison_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(BOOL, _binary_shape(op, types))]


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "i":  # truncates where NumPy floors
        quotient = a // b
        return quotient + ((quotient * b != a) & ((a < 0) != (b < 0)) & (b != 0)).astype(a.dtype)
    return a // b if a.dtype.kind == "u" else a / b


def _mod(op: Operator, a: Array, b: Array) -> Array:
    return _binary(np.fmod if op.attributes.get("fmod", 0) else np.mod)(op, a, b)


def _pow(op: Operator, a: Array, b: Array) -> Array:
    if op.version < 7:
        b = b.reshape(_legacy_shape(op, a.shape, b.shape))
    if a.dtype == b.dtype and a.dtype.kind == "f":
        return np.power(a, b)
    if a.dtype.kind in "iu" and b.dtype.kind in "iu" and (b < 0).any():  # NumPy refuses: the fractions truncate
        return np.power(a.astype(np.float64), b).astype(a.dtype)
    return np.power(a, b).astype(a.dtype)


def _shift(op: Operator, a: Array, b: Array) -> Array:
    width = a.dtype.itemsize * 8  # C leaves a shift by the width open; here all bits leave, and signs stay
    near = np.minimum(b, np.asarray(width - 1, b.dtype))
    if op.attributes.get("direction") == "LEFT":
        return np.where(b < width, np.left_shift(a, near), 0).astype(a.dtype)
    y = np.right_shift(a, near)
    return y if a.dtype.kind == "i" else np.where(b < width, y, 0).astype(a.dtype)


def _variadic(ufunc: Any) -> Function:
    def compute(op: Operator, *xs: Array) -> Array:
        if any(x.dtype != xs[0].dtype for x in xs):
            raise TypeError(message(op.title, "inputs", "have one dtype", [x.dtype for x in xs]))
        return reduce(ufunc, xs) if len(xs) > 1 else xs[0]
    return compute


def _mean(op: Operator, *xs: Array) -> Array:
    return _variadic(np.add)(op, *xs) / xs[0].dtype.type(len(xs))


def _variadic_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 0)[0], broadcast(op, *(typed(types, i)[1] for i in range(len(types)))))]


def _where(op: Operator, condition: Array, a: Array, b: Array) -> Array:
    if a.dtype != b.dtype or condition.dtype != BOOL:
        raise TypeError(message(op.title, "inputs", "be bool and two of one dtype", [condition.dtype, a.dtype, b.dtype]))
    return np.where(condition, a, b)


def _where_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 1)[0], broadcast(op, *(typed(types, i)[1] for i in range(3))))]


# Functions of one array ---------------------------------------------------------------------------------------------

def _unary(function: Any) -> Function:
    return lambda op, x: function(x)


def _wide(function: Any) -> Function:
    """Compute in float32 at least, and round once."""
    def compute(op: Operator, x: Array) -> Array:
        return np.asarray(function(op, widened(x))).astype(x.dtype, copy=False)
    return compute


def erf(x: Array) -> Array:
    """Compute the error function of float32 or float64 in double precision."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).astype(x.dtype).reshape(x.shape)


def sigmoid(x: Array) -> Array:
    """Compute the logistic function without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype, copy=False)


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))`` without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(op: Operator, x: Array) -> Array:
    if op.attributes.get("approximate", "none") == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def _elu(x: Array, alpha: float, scale: float = 1.0, gamma: float = 1.0) -> Array:
    return np.where(x > 0, gamma * x, gamma * alpha * np.expm1(np.minimum(x, 0) / scale))


def _hard_sigmoid(op: Operator, x: Array) -> Array:
    return np.clip(op.attributes.get("alpha", 0.2) * x + op.attributes.get("beta", 0.5), 0, 1)


def _shrink(op: Operator, x: Array) -> Array:
    bias, limit = op.attributes.get("bias", 0.0), op.attributes.get("lambd", 0.5)
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0)).astype(x.dtype, copy=False)


def _leaky_relu(op: Operator, x: Array) -> Array:
    return np.where(x >= 0, x, op.attributes.get("alpha", 0.01) * x)


def _prelu(op: Operator, x: Array, slope: Array) -> Array:
    if op.version < 7 and slope.size > 1 and x.ndim > 1:
        slope = slope.reshape(slope.shape + (1,) * (x.ndim - 1 - slope.ndim))  # one slope per channel, axis 1
    return np.where(x >= 0, x, slope * x).astype(x.dtype, copy=False)


def _clip(op: Operator, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    least: Any = op.attributes.get("min") if op.version < 11 else low
    most: Any = op.attributes.get("max") if op.version < 11 else high
    y = x if least is None else np.maximum(x, np.asarray(least, x.dtype))
    y = y if most is None else np.minimum(y, np.asarray(most, x.dtype))
    return y


def _is_inf(op: Operator, x: Array) -> Array:
    infinite = np.isinf(x)
    if not op.attributes.get("detect_positive", 1):
        infinite &= x < 0
    if not op.attributes.get("detect_negative", 1):
        infinite &= x > 0
    return infinite


def _bool_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(BOOL, typed(types, 0)[1])]


def _dropout(op: Operator, x: Array, ratio: Array | None = None, training_mode: Array | None = None) -> Any:
    if training_mode is not None and bool(training_mode) and (ratio is None or float(ratio) != 0):
        return NotImplemented
    mask = np.ones(x.shape, bool if op.version >= 10 else x.dtype)
    return x, mask


def _dropout_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    x = typed(types, 0)
    return [x, (BOOL if op.version >= 10 else x[0], x[1])][:len(op.wanted)]


# Casts --------------------------------------------------------------------------------------------------------------

def target_dtype(op: Operator, name: str = "to") -> np.dtype:
    """Give the dtype that an attribute names by its ONNX number (or, below opset 6, by its text)."""
    code = op.attributes.get(name)
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(_TYPE_NAMES.get(code, code)))
    except (KeyError, TypeError) as e:
        raise refuse(op, name, "be an ONNX data type", code) from e


_TYPE_NAMES: dict[Any, int] = dict(TensorProto.DataType.items())


def convert(op: Operator, x: Array, to: np.dtype) -> Array:
    """Cast as the operator's attributes say: float8 saturates unless told otherwise."""
    if to == x.dtype or to in _PLAIN and x.dtype in _PLAIN:
        return x.astype(to)
    if to.kind == "O":
        return x.astype(np.str_).astype(object)
    if to.name == "float8_e8m0fnu":
        wide, saturate = x.astype(np.float32), bool(op.attributes.get("saturate", 1))
        return numpy_helper.to_float8e8m0(wide, saturate, op.attributes.get("round_mode", "up")).astype(to)
    if to.name.startswith("float8") and op.attributes.get("saturate", 1):
        return numpy_helper.saturate_cast(x, to)
    return x.astype(to)


def _cast(op: Operator, x: Array) -> Array:
    return convert(op, x, target_dtype(op))


def _cast_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(target_dtype(op), typed(types, 0)[1])]


def _cast_like(op: Operator, x: Array, like: Array) -> Array:
    return convert(op, x, like.dtype)


def _cast_like_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 1)[0], typed(types, 0)[1])]


_ARITHMETIC: dict[str, Any] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide,
                               "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor}
_COMPARISON: dict[str, Any] = {
    "Equal": np.equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less,
    "LessOrEqual": np.less_equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
}
_VARIADIC: dict[str, Any] = {"Max": np.maximum, "Min": np.minimum, "Sum": np.add}
_UNARY: dict[str, Any] = {
    "Abs": np.abs, "Neg": np.negative, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Floor": np.floor, "Ceil": np.ceil,
    "Round": np.rint, "Sign": np.sign, "Sin": np.sin, "Cos": np.cos, "Tan": np.tan, "Asin": np.arcsin, "Acos": np.arccos,
    "Atan": np.arctan, "Sinh": np.sinh, "Cosh": np.cosh, "Asinh": np.arcsinh, "Acosh": np.arccosh, "Atanh": np.arctanh,
    "Tanh": np.tanh, "BitwiseNot": np.bitwise_not, "Identity": lambda x: x, "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Reciprocal": lambda x: (1 / x).astype(x.dtype, copy=False),
}
_WIDE: dict[str, Any] = {
    "Erf": lambda op, x: erf(x), "Gelu": _gelu, "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda op, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Sigmoid": lambda op, x: sigmoid(x), "Softplus": lambda op, x: softplus(x),
    "Softsign": lambda op, x: x / (1 + np.abs(x)),
    "Mish": lambda op, x: x * np.tanh(softplus(x)), "LeakyRelu": _leaky_relu,
    "Swish": lambda op, x: x * sigmoid(op.attributes.get("alpha", 1.0) * x),
    "Elu": lambda op, x: _elu(x, op.attributes.get("alpha", 1.0)),
    "Celu": lambda op, x: _elu(x, op.attributes.get("alpha", 1.0), op.attributes.get("alpha", 1.0)),
    "Selu": lambda op, x: _elu(x, op.attributes.get("alpha", 1.6732632423543772), 1.0,
                               op.attributes.get("gamma", 1.0507009873554805)),
    "ThresholdedRelu": lambda op, x: np.where(x > op.attributes.get("alpha", 1.0), x, 0).astype(x.dtype),
}

OPERATORS: dict[str, Function] = {
    **{name: _binary(ufunc) for name, ufunc in (_ARITHMETIC | _COMPARISON).items()},
    **{name: _variadic(ufunc) for name, ufunc in _VARIADIC.items()},
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _wide(function) for name, function in _WIDE.items()},
    "Not": _unary(np.logical_not), "IsNaN": _unary(np.isnan), "IsInf": _is_inf, "Mod": _mod, "Pow": _pow, "BitShift": _shift,
    "Mean": _mean, "Where": _where, "PRelu": _prelu, "Clip": _clip, "Shrink": _shrink, "Dropout": _dropout, "Cast": _cast,
    "CastLike": _cast_like,
}
RULES: dict[str, Rule] = {
    **dict.fromkeys((*_ARITHMETIC, "Mod", "Pow", "BitShift"), _binary_rule),
    **dict.fromkeys(_COMPARISON, _comparison_rule),
    **dict.fromkeys((*_VARIADIC, "Mean"), _variadic_rule),
    **dict.fromkeys((*_UNARY, *_WIDE, "PRelu", "Clip", "Shrink"), same),
    **dict.fromkeys(("Not", "IsNaN", "IsInf"), _bool_rule),
    "Where": _where_rule, "Dropout": _dropout_rule, "Cast": _cast_rule, "CastLike": _cast_like_rule,
}
