"""The reader of checkpoints: tensors of both containers come out whole, and no other code is run."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from tests.onnx.real import torch_checkpoint


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, key, offset, shape, strides):
        self.arguments = (Key(key), offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return Named("torch._utils", "_rebuild_tensor_v2"), self.arguments


class Named:
    """Pickles as a global name."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError


class Key(str):
    """Pickles as a reference to a storage of 12 elements."""


class Pickler(pickle._Pickler):
    """Writes what torch would, without torch."""

    def persistent_id(self, obj):
        return ("storage", Named("torch", "FloatStorage"), str(obj), "cpu", 12) if isinstance(obj, Key) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def dump(obj, file):
    Pickler(file, 2).dump(obj)


DATA = np.arange(12, dtype=np.float32)
STATE = OrderedDict(whole=Tensor("0", 0, (3, 4), (4, 1)), turned=Tensor("0", 1, (2, 3), (1, 4)), one=Tensor("0", 5, (), ()))


def zipped(path, state):
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as file:
            dump(state, file)
        archive.writestr("archive/data/0", DATA.tobytes())


def legacy(path, state):
    with open(path, "wb") as file:
        for part in (torch_checkpoint.LEGACY_MAGIC, 1001, {}, state, ["0"]):
            dump(part, file)
        file.write((12).to_bytes(8, "little") + DATA.tobytes())


@pytest.mark.parametrize("write", [zipped, legacy])
def test_tensors(write, tmp_path):
    write(tmp_path / "m.pth", STATE)
    found = torch_checkpoint.load(tmp_path / "m.pth")
    np.testing.assert_array_equal(found["whole"], DATA.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], DATA.reshape(3, 4).T[1:3])
    assert found["one"].shape == () and found["one"] == 5


@pytest.mark.parametrize("write", [zipped, legacy])
def test_other_names_are_refused(write, tmp_path):
    write(tmp_path / "m.pth", OrderedDict(bad=Named("os", "system")))
    with pytest.raises(pickle.UnpicklingError, match=r"no os\.system"):
        torch_checkpoint.load(tmp_path / "m.pth")


def test_a_tensor_beyond_its_storage(tmp_path):
    zipped(tmp_path / "m.pth", OrderedDict(long=Tensor("0", 1, (3, 4), (4, 1))))
    with pytest.raises(ValueError, match="beyond its storage"):
        torch_checkpoint.load(tmp_path / "m.pth")
