"""Gemm, MatMul."""

from __future__ import annotations

from cnnext.graph.graph import Value
from cnnext.layers.dense import Dense
from cnnext.layers.elementwise import Add
from cnnext.layers.matmul import MatMul
from cnnext.onnx.rules.elementwise import scaled
from cnnext.onnx.site import Site


def gemm(s: Site) -> Value | None:
    a, b = s.value(0), s.value(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise s.error("inputs", "be matrices", (a.shape, b.shape))
    if s.attribute("transA", 0):
        a = s.transpose(a, (1, 0))
    if s.attribute("transB", 0):
        b = s.transpose(b, (1, 0))
    if a.shape[1] != b.shape[0]:
        raise s.error("B", f"have {a.shape[1]} rows, the columns of A", b.shape)
    alpha, beta = float(s.attribute("alpha", 1.0)), float(s.attribute("beta", 1.0))
    columns = b.shape[1] or 0
    c = scaled(s, s.value(2), beta) if s.has(2) and beta != 0 else None
    is_bias = c is not None and alpha == 1 and c.shape in ((columns,), (1, columns))
    bias = s.reshape(c, (columns,)) if is_bias and c is not None else None
    y = s.apply(Dense(columns, use_bias=is_bias, name=s.name), a, weights=b, bias=bias)
    y = scaled(s, y, alpha)
    return y if c is None or is_bias else s.apply(Add(name=s.name), y, c)


def matmul(s: Site) -> Value | None:
    a, b = s.value(0), s.value(1)
    if not a.shape or not b.shape:
        return None
    if len(b.shape) != 2 or len(a.shape) < 2 or not b.is_persistent:
        return s.apply(MatMul(name=s.name), a, b)
    if a.shape[-1] != b.shape[0]:
        raise s.error("B", f"have {a.shape[-1]} rows, the columns of A", b.shape)
    return s.apply(Dense(b.shape[1] or 0, use_bias=False, name=s.name), a, weights=b)


RULES = {"Gemm": gemm, "MatMul": matmul}
