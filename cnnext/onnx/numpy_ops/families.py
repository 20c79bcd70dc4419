"""The table of own functions and that of shape rules, gathered from the families."""

from __future__ import annotations

from cnnext.onnx.numpy_ops import (
    convolution,
    detection,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantize,
    recurrent,
    reduce,
    resize,
    sampling,
    shape,
)
from cnnext.onnx.numpy_ops.common import Function, Rule

_FAMILIES = (elementwise, shape, indexing, reduce, pooling, convolution, linear, normalization, resize, sampling, detection,
             quantize, recurrent)

OPERATORS: dict[str, Function] = {name: function for family in _FAMILIES for name, function in family.OPERATORS.items()}
RULES: dict[str, Rule] = {name: rule for family in _FAMILIES for name, rule in family.RULES.items()}
