"""Finds kernels by name and packs their parameter structs. Modules are imported when a plan first needs them."""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from importlib import import_module
from typing import Any

from cnnext._native.executor import UNARY
from cnnext.errors import unknown
from cnnext.graph.graph import Epilogue
from cnnext.kernel_list import KERNELS

KERNEL_CAPSULE = "cnnext.kernel.v1"

_MODULE_OF = {kernel: module for module, kernels in KERNELS.items() for kernel in kernels}


@cache
def kernel(name: str) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Capsule of a built-in kernel and the fields of its parameter struct, each with its kind: "q" int64, "d" double."""
    if name not in _MODULE_OF:
        raise KeyError(unknown("kernel", name, _MODULE_OF))
    module = import_module(f"cnnext._native.{_MODULE_OF[name]}")
    return module.KERNELS[name], tuple(module.PARAMS[name])


def is_kernel(entry: Any) -> bool:
    """Whether a plugin's kernel is a capsule of the name that the native contract gives it."""
    return type(entry).__name__ == "PyCapsule" and bool(
        ctypes.pythonapi.PyCapsule_IsValid(ctypes.py_object(entry), KERNEL_CAPSULE.encode()))


def pack_params(name: str, fields: tuple[tuple[str, str], ...], given: dict[str, Any]) -> bytes:
    """The parameter struct as bytes; every field must be given, and nothing else."""
    wanted = [field for field, _ in fields]
    if sorted(wanted) != sorted(given):
        raise KeyError(f"{name}: takes the parameters {sorted(wanted)}. Received {sorted(given)}.")
    return struct.pack("=" + "".join(kind for _, kind in fields), *(given[field] for field in wanted))


def epilogue_params(epilogue: Epilogue) -> dict[str, Any]:
    """The fields of a kernel's parameters that say what it does to its result: add, clip, then a function (-1: none)."""
    name, constants = epilogue.post if epilogue.post is not None else (None, ())
    first, second = (*constants, 0.0, 0.0)[:2]
    return {"has_add": epilogue.add is not None, "low": epilogue.low, "high": epilogue.high,
            "post_op": UNARY[name] if name is not None else -1, "post_0": first, "post_1": second}
