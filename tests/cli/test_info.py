"""``cnnext info``: the installation, and model files."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import cnnext as cx
from cnnext.cli import main
from cnnext.isa import default_level


def test_the_installation(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"cnnext {cx.__version__}" in text and default_level() in text


def test_a_model_file(tmp_path, capsys):
    net = cx.Sequential([cx.Conv2D(4, 3, name="stem"), cx.Flatten(), cx.Dense(5, name="head")], input_shape=(8, 9, 2))
    net.save(tmp_path / "net.safetensors")
    assert main(["info", str(tmp_path / "net.safetensors"), "--batch-size", "3"]) == 0
    text = capsys.readouterr().out
    assert "(any, 8, 9, 2)  tensor(float)" in text and "(any, 5)  tensor(float)" in text
    assert net.summary(show=False) in text
    assert net.plan(3).explain() in text


def test_a_model_file_of_open_size(tmp_path, capsys):
    x = cx.Input((None, None, 3))
    cx.Model(x, cx.Conv2D(4, 3)(x)).save(tmp_path / "net.safetensors")
    assert main(["info", str(tmp_path / "net.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "(any, any, any, 3)" in text and "leaves open" in text


def test_a_damaged_model_file(tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"\x05" * 40)
    assert main(["info", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


# ONNX models


def write_onnx(path, nodes, opsets=(("", 13),), size=(8, 9)):
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weights")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, inputs, outputs, name, domain=domain) for op, inputs, outputs, name, domain in nodes],
        "small", [onnx.helper.make_tensor_value_info("image", 1, ["N", 3, *size])],
        [onnx.helper.make_tensor_value_info("result", 1, None)], [weights])
    graph.output[0].type.tensor_type.shape.SetInParent()
    for n in ("N", "C", "H", "W"):
        graph.output[0].type.tensor_type.shape.dim.add().dim_param = n
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(*o) for o in opsets]), path)
    return str(path)


CONV = ("Conv", ["image", "weights"], ["wide"], "stem", "")


def test_an_onnx_model(tmp_path, capsys):
    path = write_onnx(tmp_path / "m.onnx", [CONV, ("Relu", ["wide"], ["result"], "relu", "")])
    assert main(["info", path, "--batch-size", "2"]) == 0
    text = capsys.readouterr().out
    assert "small" in text and "(any, 3, 8, 9)  tensor(float)" in text and "output  result" in text
    assert "operators  Conv 1, Relu 1" in text
    macs = 6 * 7 * 4 * 27
    assert "stem (Conv)" in text and f"108 parameters (108 trainable), {macs:,} MACs per sample" in text
    assert "2x3x8x9" in text and f"{2 * macs:,} MACs, arena" in text


def test_an_onnx_model_of_open_size(tmp_path, capsys):
    path = write_onnx(tmp_path / "m.onnx", [CONV, ("Relu", ["wide"], ["result"], "relu", "")], size=("H", "W"))
    assert main(["info", path]) == 0
    assert "--shape 1,3,224,224" in capsys.readouterr().out
    assert main(["info", path, "--shape", "1,3,8,9"]) == 0
    assert f"{6 * 7 * 4 * 27:,} MACs, arena" in capsys.readouterr().out
    assert main(["info", path, "--shape", "1,4,8,9"]) == 1
    assert "once for each input and fit it" in capsys.readouterr().err


def test_all_operators_that_are_not_supported(tmp_path, capsys):
    """What the model holds is shown all the same."""
    unknown = [("Fold", ["wide"], ["a"], "f1", "acme"), ("Fold", ["a"], ["b"], "f2", "acme"),
               ("Warp", ["b"], ["result"], "w", "acme")]
    path = write_onnx(tmp_path / "m.onnx", [CONV, *unknown], (("", 13), ("acme", 1)))
    assert main(["info", path]) == 1
    captured = capsys.readouterr()
    assert "image" in captured.out and "acme::Fold 2" in captured.out and "parameters  108" in captured.out
    assert captured.err.count("\n") == 1
    assert "acme::Fold (nodes 'f1', 'f2')" in captured.err and "acme::Warp (node 'w')" in captured.err


def test_a_file_that_is_no_onnx_model(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"\x05" * 40)
    assert main(["info", str(tmp_path / "m.onnx")]) == 1
    assert "not an ONNX model" in capsys.readouterr().err


def test_view_without_netron(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "netron", None)
    assert main(["info", "--view", str(tmp_path / "m.onnx")]) == 1
    assert "pip install 'cnnext[graph-view]'" in capsys.readouterr().err


def test_view(monkeypatch, tmp_path, capsys):
    calls = []
    viewer = SimpleNamespace(start=lambda path: calls.append(path), wait=lambda: calls.append("wait"))
    monkeypatch.setitem(sys.modules, "netron", viewer)
    path = write_onnx(tmp_path / "m.onnx", [CONV, ("Relu", ["wide"], ["result"], "relu", "")])
    assert main(["info", path, "--view"]) == 0
    assert calls == [path, "wait"]
    assert main(["info", "--view", str(tmp_path / "missing.onnx")]) == 1
    assert "missing.onnx" in capsys.readouterr().err
    assert main(["info", "--view"]) == 1
    assert "come with a model file" in capsys.readouterr().err
