"""``cnnext bench``."""

from __future__ import annotations

import json

import pytest

import cnnext as cx
from cnnext.cli import main

pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path):
    net = cx.Sequential([cx.Input((None, None, 2), name="x"), cx.Conv2D(3, 3), cx.GlobalAvgPool2D()])
    net.save(tmp_path / "net.safetensors")
    net.export_onnx(tmp_path / "net.onnx")
    return tmp_path


@pytest.mark.parametrize("name", ["net.safetensors", "net.onnx"])
def test_table(model, capsys, name):
    pytest.importorskip("onnxruntime")
    assert main(["bench", str(model / name), "--vs", "onnxruntime", "--size", "6x7", "--batch-size", "2", "--threads", "1",
                 "--seconds", "0.05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("x (2, 6, 7, 2), 1 thread(s)")
    assert [line.split()[0] for line in lines[1:]] == ["engine", "cnnext", "onnxruntime"]


def test_json_profile_and_trace(model, capsys):
    trace = model / "trace.json"
    assert main(["bench", str(model / "net.onnx"), "--size", "6x7", "--threads", "1", "--seconds", "0.05", "--json",
                 "--trace", str(trace)]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["engine"] == "cnnext" and 0 < row["best_ms"] <= row["median_ms"]
    assert json.loads(trace.read_text())["traceEvents"]
    assert main(["bench", str(model / "net.onnx"), "--size", "6x7", "--seconds", "0.05", "--profile"]) == 0
    assert "conv_direct" in capsys.readouterr().out


@pytest.mark.parametrize("size, text", [(None, "open extents of input 'x'"), ("6", "open extents"), ("axb", "ROWSxCOLUMNS")])
def test_open_extents_must_be_given(model, capsys, size, text):
    assert main(["bench", str(model / "net.onnx"), *(["--size", size] if size else [])]) == 1
    assert text in capsys.readouterr().err


def test_roofline(model):
    pytest.importorskip("matplotlib")
    picture = model / "roof.svg"
    assert main(["bench", str(model / "net.onnx"), "--size", "6x7", "--threads", "1", "--seconds", "0.05", "--roofline",
                 str(picture)]) == 0
    assert "<svg" in picture.read_text()
