"""ONNX in and out: importer, exporter, and the ONNX backend API. Needs the package ``onnx`` (``cnnext[onnx]``)."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("backend", "exporter", "importer"):
        return import_module(f"cnnext.onnx.{name}")
    if name == "OnnxLimits":
        return import_module("cnnext.onnx.files").OnnxLimits
    raise AttributeError(f"module 'cnnext.onnx' has no attribute {name!r}")
