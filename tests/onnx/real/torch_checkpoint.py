"""Reads the weights of a torch checkpoint without torch, and without running what the file may carry.

A checkpoint is a pickle. The unpickler here knows six names: the ones that a dictionary of tensors needs; anything else is
an error. Both of torch's containers are read: the zip archive, and the older file of five pickles with the storages behind.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Storage:
    """The flat array that tensors are views of; filled after the pickle was read."""

    def __init__(self, dtype: str):
        self.dtype = np.dtype(dtype)
        self.data = np.empty(0, self.dtype)


class Unpickler(pickle.Unpickler):
    """Knows dictionaries of tensors and nothing else."""

    def __init__(self, file: io.BufferedIOBase, storage: Callable[[str, str, int], Storage]):
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The six names that are allowed."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"a checkpoint of weights has no {module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        """``("storage", type, key, device, elements, ...)``."""
        _, dtype, key, _, size = pid[:5]
        return self.storage(dtype, key, size)


def load(path: Path) -> dict[str, np.ndarray]:
    """Names and arrays of a state dictionary."""
    with open(path, "rb") as file:
        state = (_read_zip if zipfile.is_zipfile(file) else _read_legacy)(file)
    return {name: _array(*tensor) for name, tensor in state.items()}


def _array(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    item = storage.dtype.itemsize
    if offset + sum((n - 1) * s for n, s in zip(shape, strides)) >= len(storage.data):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {len(storage.data)} elements")
    return np.array(np.ndarray(shape, storage.dtype, storage.data, offset * item, [s * item for s in strides]))


def _read_zip(file: Any) -> dict[str, Any]:
    archive = zipfile.ZipFile(file)
    storages: dict[str, Storage] = {}
    [pickled] = [name for name in archive.namelist() if name.endswith("/data.pkl")]

    def storage(dtype: str, key: str, _: int) -> Storage:
        if key not in storages:
            storages[key] = Storage(dtype)
            storages[key].data = np.frombuffer(archive.read(pickled.replace("data.pkl", f"data/{key}")), dtype)
        return storages[key]

    return Unpickler(io.BytesIO(archive.read(pickled)), storage).load()


def _read_legacy(file: Any) -> dict[str, Any]:
    """Magic number, protocol version, system, the state, the keys in order; then each storage's size and data."""
    file.seek(0)
    storages: dict[str, Storage] = {}
    parts = [Unpickler(file, lambda dtype, key, _: storages.setdefault(key, Storage(dtype))).load() for _ in range(5)]
    if parts[0] != LEGACY_MAGIC:
        raise ValueError("not a torch checkpoint")
    for key in parts[4]:
        size = int.from_bytes(file.read(8), "little")
        storages[key].data = np.frombuffer(file.read(size * storages[key].dtype.itemsize), storages[key].dtype)
    return parts[3]
