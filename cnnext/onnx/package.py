"""The package ``onnx``, which cnnext does not need for anything but ONNX files."""

from __future__ import annotations

try:
    import onnx
except ImportError:
    raise ImportError("ONNX files need the package onnx. Install it: pip install 'cnnext[onnx]'") from None

__all__ = ["onnx"]
