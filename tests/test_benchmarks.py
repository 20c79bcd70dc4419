"""The benchmarks run: what they measure is not judged here."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnnext as cx
from benchmarks import __main__ as program
from benchmarks import kernels, real_models, recipe


def test_inference(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "inference", "--quick"])
    program.main()
    rows = re.findall(r"^cnnext +(\d+) +(\d+) +[\d.]+ +[\d.]+ +[\d,]+$", capsys.readouterr().out, re.MULTILINE)
    assert rows == [("1", "1"), ("1", "2"), ("64", "1"), ("64", "2")]


def test_kernels(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.kernels.SHAPES", [("conv", 8, 3, 8, 3, 1)])
    monkeypatch.setattr("benchmarks.kernels.DEPTHWISE", [("dw", 9, 5, 3, 2, "silu")])
    monkeypatch.setattr("sys.argv", ["benchmarks", "kernels", "--quick"])
    program.main()
    row = r"^(.+?)  +[\d.]+ +[\d.]+ +(?:[\d.]+|-) +[\d.]+ +(?:[\d.]+ %|-) +[\d.]+ +[\d.]+$"
    shown = capsys.readouterr().out
    rows = re.findall(row, shown, re.MULTILINE)
    assert rows[:3] == ["conv 8, 3 -> 8", "dw 9, 5", "planes to pixels (3, 224, 224)"]
    assert rows[-1] == "softmax (118, 158, 2)"
    assert "ResNet-50" not in shown


def test_kernels_summarizes_the_large_layers(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.kernels.SHAPES", [("resnet50 a", 28, 3, 8, 3, 1), ("resnet50 b", 28, 3, 8, 3, 2)])
    monkeypatch.setattr("benchmarks.kernels.DEPTHWISE", [])
    monkeypatch.setattr("benchmarks.kernels.PASSES", [])
    kernels.main(quick=True)
    shown = capsys.readouterr().out
    assert re.search(r"^ResNet-50, results of 28x28 and more: 1 layers at \d+ % .*; the least is resnet50 a 28, 3 -> 8\.$",
                     shown, re.MULTILINE)


def test_kernels_has_every_convolution_of_resnet50():
    layers = {(node.inputs[0].shape[1], node.inputs[0].shape[3], node.layer.filters, node.layer.kernel_size[0],
               node.layer.strides[0])
              for node in cx.models.resnet50(batch_norm=False).graph.nodes if isinstance(node.layer, cx.Conv2D)}
    listed = [shape for name, *shape in kernels.SHAPES if name.startswith("resnet50")]
    assert layers == set(map(tuple, listed)) and len(layers) == len(listed)


def test_winograd(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.winograd.SHAPES", [("wide", 28, 64, 64, 3, 1), ("narrow", 5, 3, 4, 3, 1)])
    monkeypatch.setattr("sys.argv", ["benchmarks", "winograd", "--quick"])
    program.main()
    rows = re.findall(r"^(wide|narrow) +1 .*(F\(4x4\)|F\(2x2\)|direct) ", capsys.readouterr().out, re.MULTILINE)
    assert rows == [("wide", "F(4x4)"), ("narrow", "direct")]


def test_plugins(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "plugins", "--quick"])
    program.main()
    shown = capsys.readouterr().out
    assert re.findall(r"^(\d+) step\(s\) +[\d.]+ +[\d.]+ +[+-][\d.]+  [+-][\d.]+$", shown, re.MULTILINE) == ["1", "20"]
    assert re.search(r"^import cnnext: .* [\d.]+ +[\d.]+ +[+-][\d.]+$", shown, re.MULTILINE)


def test_networks(monkeypatch, capsys):
    pytest.importorskip("cnnext_normalization")
    monkeypatch.setattr("benchmarks.networks.NETWORKS", ("lenet5", "mobilenet_v3_small"))
    monkeypatch.setattr("benchmarks.networks.SCALED", ("mobilenet_v3_small",))
    monkeypatch.setattr("sys.argv", ["benchmarks", "networks", "--quick"])
    program.main()
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +([\d.]+) +[\d.]+ +[\d.]+ +[\d.]+$", printed, re.MULTILINE)
    assert rows == [("lenet5", "0.4"), ("mobilenet_v3_small", "56.5")]
    assert re.search(r"^mobilenet_v3_small +best [\d.]+, median [\d.]+ \([\d.]+ ms, [\d.]+ ms\)$", printed, re.MULTILINE)
    ratios = r"best [\d.]+, median [\d.]+, median of the turns' ratios [\d.]+"
    assert re.search(rf"^with / without, \d+ turns of 5 runs: {ratios}$", printed, re.MULTILINE)


def test_real_models(monkeypatch, capsys, tmp_path):
    """With a network of one layer in place of the trained ones: processes, turns and table are the same."""
    pytest.importorskip("onnxruntime")
    x = cx.Input((6, 6, 2), name="image")
    cx.Model(x, cx.Conv2D(3, 3)(x)).export_onnx(tmp_path / "m.onnx")
    feed = {"image": np.random.default_rng(0).random((1, 6, 6, 2), np.float32)}
    monkeypatch.setattr(real_models, "NEEDED", ("onnx", "onnxruntime"))
    monkeypatch.setattr(real_models, "workloads", lambda: {"one layer": ((tmp_path / "m.onnx").read_bytes(), feed)})
    real_models.main(quick=True)
    text = capsys.readouterr().out
    rows = re.findall(r"^one layer +1x6x6x2 +(\d+)(?: +[\d.]+){6}$", text, re.MULTILINE)
    assert rows == ["2", "1"]
    assert re.search(r"geometric mean, 2 thread\(s\): [\d.]+ \(medians: [\d.]+\)", text)


def test_real_models_without_the_packages(monkeypatch, capsys):
    monkeypatch.setattr(real_models, "NEEDED", ("no_such_package",))
    real_models.main(quick=True)
    assert "Not installed: no_such_package" in capsys.readouterr().out


def test_loading(monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("benchmarks.loading.NETWORKS", ("lenet5",))
    monkeypatch.setattr("sys.argv", ["benchmarks", "loading", "--quick"])
    program.main()
    shown = capsys.readouterr().out
    number = r" +[\d.]+"
    for engine in ("cnnext", "cnnext, own file"):
        assert re.search(rf"^lenet5 +{engine}{number * 6}{number * 6}$", shown, re.MULTILINE)
    assert re.search(rf"^lenet5 +onnxruntime{number * 6}$", shown, re.MULTILINE)


def test_unknown_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "flight"])
    with pytest.raises(SystemExit):
        program.main()
    assert "unknown benchmark 'flight'" in capsys.readouterr().err


def test_peers(monkeypatch, capsys, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("benchmarks.peers.NETWORKS", ("lenet5",))
    monkeypatch.setattr("benchmarks.peers.OTHERS", ("onnxruntime",))
    monkeypatch.setattr("benchmarks.chart.FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", "peers", "--quick"])
    program.main()
    shown = capsys.readouterr().out
    assert re.search(r"^lenet5 +2 +1 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+$", shown, re.MULTILINE)
    assert re.search(r"^geometric mean, 2 thread\(s\), batch 1: [\d.]+, exact [\d.]+; least [\d.]+$", shown, re.MULTILINE)
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_the_recipe_is_that_of_the_demo(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    from cnnext.cli import main

    assert main(["demo", "--epochs", "1", "--seed", "3", "--output", str(tmp_path)]) == 0
    accuracy = float(re.search(r"accuracy +([\d.]+) %\n", capsys.readouterr().out)[1])
    measured = recipe.measure("cnnext", seed=3, epochs=1)
    assert 100 * measured["accuracy"] == pytest.approx(accuracy) and len(measured["seconds"]) == 1


@pytest.mark.slow
def test_recipe(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr("sys.argv", ["benchmarks", "recipe", "--quick"])
    program.main()
    shape = "^   0  " + r" +[\d.]+ +[\d.]+ +([\d.]+)" * 3 + r" +[\d.]+ [\d.]+$"
    [row] = re.findall(shape, capsys.readouterr().out, re.MULTILINE)
    assert all(float(accuracy) > 90 for accuracy in row)
