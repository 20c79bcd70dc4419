"""Quantized operators: those of ONNX, and the `com.microsoft` ones that quantizers of its runtime write.

Integer products are exact: NumPy multiplies integer matrices slowly, so they are multiplied in float64, whose 53 bits hold
every sum of up to 2**35 products of 9-bit factors.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import helper

from cnnext.errors import message
from cnnext.onnx.numpy_ops.common import (
    FLOAT32,
    UINT8,
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    axis_of,
    broadcast,
    given,
    refuse,
    typed,
)
from cnnext.onnx.numpy_ops.convolution import conv_shape, convolve
from cnnext.onnx.numpy_ops.elementwise import convert, sigmoid, target_dtype
from cnnext.onnx.numpy_ops.linear import product_shape
from cnnext.onnx.numpy_ops.pooling import OPERATORS as POOLING
from cnnext.onnx.numpy_ops.pooling import RULES as POOLING_RULES
from cnnext.onnx.operator import Operator

INT32: np.dtype = np.dtype(np.int32)
_SUB_BYTE = frozenset(np.dtype(t) for t in (ml_dtypes.int4, ml_dtypes.uint4,
                                            *(getattr(ml_dtypes, name) for name in ("int2", "uint2")
                                              if hasattr(ml_dtypes, name))))


def _range(dtype: np.dtype) -> tuple[int, int]:
    limits = ml_dtypes.iinfo(dtype) if dtype in _SUB_BYTE else np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _is_integer(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" or dtype in _SUB_BYTE


def _spread(op: Operator, parameter: Array, x: Array) -> Array:
    """Lay a scale or zero point out against `x`: one for all, one for each index of an axis, or one for each block of it."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = axis_of(op, op.attributes.get("axis", 1), x.ndim)
    block = op.attributes.get("block_size", 0)
    if block:
        blocks = -(-x.shape[axis] // block) if block > 0 else -1
        if parameter.shape != (*x.shape[:axis], blocks, *x.shape[axis + 1:]):
            raise refuse(op, "block_size", "fit the scale", block, f"scale shape {parameter.shape}, source shape {x.shape}")
        return np.repeat(parameter, min(block, x.shape[axis]), axis)[(slice(None),) * axis + (slice(x.shape[axis]),)]
    if parameter.shape != (x.shape[axis],):
        raise refuse(op, "scale", f"have one element or {x.shape[axis]}", parameter.shape, f"source shape {x.shape}")
    return parameter.reshape((-1,) + (1,) * (x.ndim - 1 - axis))


def quantize(op: Operator, x: Array, scale: Array, zero_point: Array | None, dtype: np.dtype) -> Array:
    """Divide by the scale, round to even, shift by the zero point, saturate; scale and zero point broadcast."""
    y = x / scale
    y = y if y.dtype in (np.float32, np.float64) else y.astype(np.float32)
    if not _is_integer(dtype):
        return convert(op, y if zero_point is None else y + zero_point.astype(y.dtype), dtype)
    y = np.rint(y)
    if zero_point is not None:
        y = y + zero_point.astype(y.dtype)
    y = np.clip(y, *_range(dtype))
    return y.astype(np.int32).astype(dtype) if dtype in _SUB_BYTE else y.astype(dtype)


def dequantize(x: Array, scale: Array, zero_point: Array | None) -> Array:
    """Shift by the zero point and multiply by the scale, in float32; both broadcast."""
    if zero_point is None or not _is_integer(x.dtype):
        return x.astype(np.float32) * scale
    wide = np.int64 if x.dtype.itemsize >= 4 else np.int32  # the difference is exact; it is rounded once
    return (x.astype(wide) - zero_point.astype(wide)).astype(np.float32) * scale


def _quantized_dtype(op: Operator, zero_point: np.dtype | None) -> np.dtype:
    named = target_dtype(op, "output_dtype") if op.attributes.get("output_dtype") else None
    if named is not None and zero_point is not None and named != zero_point:
        raise TypeError(message(op.title, "output_dtype", "be that of the zero point", named))
    return zero_point if zero_point is not None else named if named is not None else UINT8


def _quantize_linear(op: Operator, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
    dtype = _quantized_dtype(op, None if zero_point is None else zero_point.dtype)
    spread = _spread(op, scale, x)
    if op.attributes.get("precision"):
        precision = np.dtype(helper.tensor_dtype_to_np_dtype(op.attributes["precision"]))
        x, spread = x.astype(precision), spread.astype(precision)
    return quantize(op, x, spread, None if zero_point is None else _spread(op, zero_point, x), dtype)


def _quantize_linear_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    zero_point: np.dtype | None = typed(types, 2)[0] if given(types, 2) else None
    return [(_quantized_dtype(op, zero_point), typed(types, 0)[1])]


def _dequantize_linear(op: Operator, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
    y = dequantize(x, _spread(op, scale, x), None if zero_point is None else _spread(op, zero_point, x))
    return y.astype(_dequantized_dtype(op, scale.dtype), copy=False)


def _dequantized_dtype(op: Operator, scale: np.dtype) -> np.dtype:
    return target_dtype(op, "output_dtype") if op.attributes.get("output_dtype") else scale


def _dequantize_linear_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(_dequantized_dtype(op, typed(types, 1)[0]), typed(types, 0)[1])]


def _dynamic_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    outputs: list[TensorType] = [(UINT8, typed(types, 0)[1]), (FLOAT32, ()), (UINT8, ())]
    return outputs[:len(op.wanted)]


# Products -----------------------------------------------------------------------------------------------------------

def _shifted(x: Array, zero_point: Array | None) -> Array:
    wide = x.astype(np.float64)
    return wide if zero_point is None else wide - zero_point.astype(np.float64)


def _int32(x: Array) -> Array:
    return x.astype(np.int64).astype(np.int32)  # wraps as the hardware does


def _per_row(parameter: Array | None) -> Array | None:
    """One for each row of a matrix."""
    return parameter[..., None] if parameter is not None and parameter.ndim == 1 and parameter.size > 1 else parameter


def _per_filter(parameter: Array | None, rank: int) -> Array | None:
    """One for each output channel, against the weights."""
    return parameter if parameter is None or parameter.size == 1 else parameter.reshape((-1,) + (1,) * (rank - 1))


def _matmul_integer(op: Operator, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
    return _int32(np.matmul(_shifted(a, _per_row(a_zero)), _shifted(b, b_zero)))


def _matmul_integer_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(INT32, product_shape(op, typed(types, 0)[1], typed(types, 1)[1]))]


def _conv_integer(op: Operator, x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
    return _int32(convolve(op, _shifted(x, x_zero), _shifted(w, _per_filter(w_zero, w.ndim))))


def _conv_integer_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(INT32, conv_shape(op, typed(types, 0)[1], typed(types, 1)[1]))]


def _requantize(op: Operator, acc: Array, factor: Array, zero_point: Array | None, dtype: np.dtype) -> Array:
    y = np.rint(acc.astype(np.float32) * factor.astype(np.float32))
    y = y if zero_point is None else y + zero_point.astype(np.float32)
    return np.clip(y, *_range(dtype)).astype(dtype)


def _qlinear_matmul(op: Operator, a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array,
                    y_scale: Array, y_zero: Array) -> Array:
    row_scale = _per_row(a_scale)
    assert row_scale is not None
    factor = row_scale.astype(np.float32) * b_scale.astype(np.float32) / y_scale.astype(np.float32)
    return _requantize(op, _matmul_integer(op, a, b, a_zero, b_zero), factor, y_zero, y_zero.dtype)


def _qlinear_matmul_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 7)[0], product_shape(op, typed(types, 0)[1], typed(types, 3)[1]))]


def _qlinear_conv(op: Operator, x: Array, x_scale: Array, x_zero: Array, w: Array, w_scale: Array, w_zero: Array,
                  y_scale: Array, y_zero: Array, b: Array | None = None) -> Array:
    channels = (-1,) + (1,) * (x.ndim - 2)
    acc = convolve(op, _shifted(x, x_zero), _shifted(w, _per_filter(w_zero, w.ndim)))
    acc = acc if b is None else acc + b.astype(np.float64).reshape(channels)
    return _requantize(op, acc, x_scale * w_scale.reshape(channels) / y_scale, y_zero, y_zero.dtype)


def _qlinear_conv_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 7)[0], conv_shape(op, typed(types, 0)[1], typed(types, 3)[1]))]


# com.microsoft ------------------------------------------------------------------------------------------------------

def _quantized_binary(ufunc: Any) -> Function:
    def compute(op: Operator, a: Array, a_scale: Array, a_zero: Array | None, b: Array, b_scale: Array, b_zero: Array | None,
                y_scale: Array, y_zero: Array | None = None) -> Array:
        y = ufunc(dequantize(a, a_scale, a_zero), dequantize(b, b_scale, b_zero))
        return quantize(op, y, y_scale, y_zero, a.dtype)
    return compute


def _quantized_binary_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [(typed(types, 0)[0], broadcast(op, typed(types, 0)[1], typed(types, 3)[1]))]


def _quantized_unary(function: Any) -> Function:
    def compute(op: Operator, x: Array, x_scale: Array, x_zero: Array | None, y_scale: Array,
                y_zero: Array | None = None) -> Array:
        return quantize(op, function(op, dequantize(x, x_scale, x_zero)), y_scale, y_zero, x.dtype)
    return compute


def _channels_last(name: str) -> Any:
    """Pooling that may find the channels behind."""
    def compute(op: Operator, x: Array) -> Array:
        if not op.attributes.get("channels_last", 0):
            return POOLING[name](op, x)
        return np.moveaxis(POOLING[name](op, np.moveaxis(x, -1, 1)), 1, -1)
    return compute


def _quantized_pool_rule(name: str) -> Rule:
    def rule(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
        dtype, shape = typed(types, 0)
        if not op.attributes.get("channels_last", 0):
            return POOLING_RULES[name](op, [(dtype, shape)], ())
        found = POOLING_RULES[name](op, [(dtype, (shape[0], shape[-1], *shape[1:-1]))], ())
        return found and [(d, (s[0], *s[2:], s[1])) for d, s in found]
    return rule


def _quantized_same(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    return [typed(types, 0)]


def _qlinear_concat(op: Operator, y_scale: Array, y_zero: Array, *parts: Array) -> Array:
    xs = [dequantize(x, scale, zero) for x, scale, zero in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]
    y = np.concatenate(xs, axis_of(op, op.attributes.get("axis", 0), xs[0].ndim))
    return quantize(op, y, y_scale, y_zero, y_zero.dtype)


def _qlinear_concat_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    shapes = [typed(types, i)[1] for i in range(2, len(types), 3)]
    axis = axis_of(op, op.attributes.get("axis", 0), len(shapes[0]))
    return [(typed(types, 1)[0], (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1:]))]


def _qgemm(op: Operator, a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array,
           c: Array | None = None, y_scale: Array | None = None, y_zero: Array | None = None) -> Array:
    left = _shifted(a, a_zero).T if op.attributes.get("transA", 0) else _shifted(a, a_zero)
    if op.attributes.get("transB", 0):
        right = _shifted(b, _per_row(b_zero)).T
    else:
        right = _shifted(b, b_zero)
    acc = left @ right + (0 if c is None else c.astype(np.float64))
    factor = np.asarray(op.attributes.get("alpha", 1.0) * a_scale * b_scale)
    if y_scale is None:
        return (acc * factor).astype(np.float32)
    return _requantize(op, acc, factor / y_scale, y_zero, a.dtype if y_zero is None else y_zero.dtype)


def _qgemm_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    a, b = (typed(types, i)[1][::-1] if op.attributes.get(name, 0) else typed(types, i)[1] for i, name in ((0, "transA"),
                                                                                                      (3, "transB")))
    dtype = typed(types, 8)[0] if given(types, 8) else typed(types, 0)[0] if given(types, 7) else FLOAT32
    return [(dtype, product_shape(op, a, b))]


_MICROSOFT: dict[str, tuple[Function, Rule]] = {
    "QLinearAdd": (_quantized_binary(np.add), _quantized_binary_rule),
    "QLinearMul": (_quantized_binary(np.multiply), _quantized_binary_rule),
    "QLinearSigmoid": (_quantized_unary(lambda op, x: sigmoid(x)), _quantized_same),
    "QLinearLeakyRelu": (_quantized_unary(lambda op, x: np.where(x >= 0, x, op.attributes.get("alpha", 0.01) * x)),
                         _quantized_same),
    "QLinearAveragePool": (_quantized_unary(_channels_last("AveragePool")), _quantized_pool_rule("AveragePool")),
    "QLinearGlobalAveragePool": (_quantized_unary(_channels_last("GlobalAveragePool")),
                                 _quantized_pool_rule("GlobalAveragePool")),
    "QLinearConcat": (_qlinear_concat, _qlinear_concat_rule), "QGemm": (_qgemm, _qgemm_rule),
    "QuantizeLinear": (_quantize_linear, _quantize_linear_rule),
    "DequantizeLinear": (_dequantize_linear, _dequantize_linear_rule),
}
OPERATORS: dict[str, Function] = {
    "QuantizeLinear": _quantize_linear, "DequantizeLinear": _dequantize_linear, "MatMulInteger": _matmul_integer,
    "ConvInteger": _conv_integer, "QLinearMatMul": _qlinear_matmul, "QLinearConv": _qlinear_conv,
    **{f"com.microsoft::{name}": function for name, (function, _) in _MICROSOFT.items()},
}
RULES: dict[str, Rule] = {
    "QuantizeLinear": _quantize_linear_rule, "DequantizeLinear": _dequantize_linear_rule,
    "DynamicQuantizeLinear": _dynamic_rule, "MatMulInteger": _matmul_integer_rule,
    "ConvInteger": _conv_integer_rule, "QLinearMatMul": _qlinear_matmul_rule,
    "QLinearConv": _qlinear_conv_rule, **{f"com.microsoft::{name}": rule for name, (_, rule) in _MICROSOFT.items()},
}
