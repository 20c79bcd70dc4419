"""Matrix products."""

from __future__ import annotations

import numpy as np

from cnnext.errors import message
from cnnext.onnx.numpy_ops.common import (
    Array,
    Contents,
    Function,
    Rule,
    TensorType,
    Types,
    broadcast,
    refuse,
    typed,
    widened,
)
from cnnext.onnx.operator import Operator

Shape = tuple[int, ...]


def _wide(x: Array) -> Array:
    return x if x.dtype.kind in "iu" else widened(x)


def _matmul(op: Operator, a: Array, b: Array) -> Array:
    if a.dtype != b.dtype:
        raise TypeError(message(op.title, "inputs", "have one dtype", [a.dtype, b.dtype]))
    return np.asarray(np.matmul(_wide(a), _wide(b))).astype(a.dtype, copy=False)


def product_shape(op: Operator, a: Shape, b: Shape) -> Shape:
    """Shape of a matrix product of NumPy's kind."""
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise refuse(op, "inputs", "be matrices that can be multiplied", [a, b])
    if len(a) == 1 or len(b) == 1:
        return a[:-1] + b[:-2] + b[-1:] if len(b) > 1 else a[:-1]
    return (*broadcast(op, a[:-2], b[:-2]), a[-2], b[-1])


def _matmul_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, a), (_, b) = typed(types, 0), typed(types, 1)
    return [(dtype, product_shape(op, a, b))]


def _gemm(op: Operator, a: Array, b: Array, c: Array | None = None) -> Array:
    wide_a, wide_b = (_wide(x).T if op.attributes.get(name, 0) else _wide(x) for x, name in ((a, "transA"), (b, "transB")))
    alpha, beta = op.attributes.get("alpha", 1.0), op.attributes.get("beta", 1.0)
    y = wide_a @ wide_b
    y = y if alpha == 1 else y * alpha
    if c is not None and beta != 0:
        y = y + (_wide(c) if beta == 1 else _wide(c) * beta)
    return y.astype(a.dtype, copy=False)


def _gemm_rule(op: Operator, types: Types, contents: Contents) -> list[TensorType]:
    (dtype, a), (_, b) = typed(types, 0), typed(types, 1)
    a, b = (shape[::-1] if op.attributes.get(name, 0) else shape for shape, name in ((a, "transA"), (b, "transB")))
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise refuse(op, "inputs", "be matrices that can be multiplied", [a, b])
    result = a[0], b[1]
    if len(types) > 2 and broadcast(op, result, typed(types, 2)[1]) != result:
        raise refuse(op, "C", "broadcast to the result", typed(types, 2)[1], f"result shape {result}")
    return [(dtype, result)]


OPERATORS: dict[str, Function] = {"MatMul": _matmul, "Gemm": _gemm}
RULES: dict[str, Rule] = {"MatMul": _matmul_rule, "Gemm": _gemm_rule}
