"""A folder of made-up installed distributions, each with a package and its entry points."""

from __future__ import annotations

import sys
from pathlib import Path

NUMPY_LAYER = '''
from cnnext import Layer

class Double(Layer):
    """dst = 2 * src"""
    type_name = "acme/Double@1"

    def output_shape(self, *shapes):
        return shapes[0]

    def forward(self, ctx, x):
        return 2 * x

    def backward(self, ctx, dy):
        return [2 * dy]
'''

# A native layer whose kernel is a ctypes callback: no compiler is needed. BODY computes with `args`, returns a code.
NATIVE_LAYER = '''
import ctypes
from cnnext import Layer

class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * 8), ("stride", ctypes.c_int64 * 8)]

class Args(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_uint32), ("size", ctypes.c_uint32), ("n_src", ctypes.c_int32),
                ("n_dst", ctypes.c_int32), ("src", ctypes.POINTER(Tensor)), ("dst", ctypes.POINTER(Tensor))]

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Args), ctypes.c_void_p)
def run(pointer, worker):
    args = pointer.contents
    BODY

class Kernel(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_uint32), ("size", ctypes.c_uint32), ("name", ctypes.c_char_p), ("run", type(run))]

entry = Kernel(ABI, ctypes.sizeof(Kernel), b"double", run)
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
NAME = b"cnnext.kernel.v1"
capsule = new(ctypes.addressof(entry), NAME, None)

class Double(Layer):
    type_name = "acme/Double@1"

    def output_shape(self, *shapes):
        return shapes[0]

    def lower(self, b, node):
        b.step("double", [b.view(node.inputs[0])], [b.view(node.output)], {}, entry=(capsule, ()))
'''

DOUBLES = """n = args.dst[0].shape[0] * args.dst[0].stride[0]
    src, dst = (ctypes.cast(t.data, ctypes.POINTER(ctypes.c_float)) for t in (args.src[0], args.dst[0]))
    for i in range(n):
        dst[i] = 2 * src[i]
    return 0"""


def native_layer(body: str = DOUBLES, abi: int = 1) -> str:
    """The source of a package with a native layer."""
    return NATIVE_LAYER.replace("BODY", body).replace("ABI", str(abi), 1)


def install(folder: Path, source: str = NUMPY_LAYER, *, package: str = "acme_layers", version: str = "1.2.3",
            entry_points: str | None = None) -> None:
    """Write a package and its ``.dist-info`` as pip would."""
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    text = f"[cnnext.layers]\nacme/Double@1 = {package}:Double\n" if entry_points is None else entry_points
    (info / "entry_points.txt").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
