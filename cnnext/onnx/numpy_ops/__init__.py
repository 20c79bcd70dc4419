"""Any ONNX operator on NumPy arrays: for constants, for what the engine has no kernel for, for data-dependent shapes.

One table (``OPERATORS``) names the own functions, in one file for each family; what they leave out is computed by the
reference implementation of the ``onnx`` package. A second one (``RULES``) gives dtypes and shapes without computing.
"""

from __future__ import annotations

from cnnext.onnx.numpy_ops.evaluate import evaluate, infer, is_supported

__all__ = ["evaluate", "infer", "is_supported"]
