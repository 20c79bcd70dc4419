"""ONNX models in PyTorch and ncnn, by way of pnnx: results, batches, and what is said where it does not work."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import cnnext as cx
from cnnext import _pnnx
from cnnext.engines import compare

pytest.importorskip("onnx")

FEED = {"left": (6, 6, 2), "right": (3, 3, 4)}


def model_and_feed(batch):
    from cnnext.onnx.exporter import export

    cx.set_random_seed(0)
    left, right = (cx.Input(shape, name=name) for name, shape in FEED.items())
    y = cx.Add()([cx.Conv2D(4, 3, strides=2, padding="same")(left), right])
    net = cx.Model([left, right], [y, cx.Dense(5)(cx.GlobalAvgPool2D()(y))])
    rng = np.random.default_rng(0)
    return export(net).SerializeToString(), {n: rng.standard_normal((batch, *s), np.float32) for n, s in FEED.items()}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("engine", ["torch", "ncnn"])
def test_results(engine, batch):
    pytest.importorskip(engine)
    pytest.importorskip("pnnx")
    model, feed = model_and_feed(batch)
    ours, theirs = compare(model, feed, ["cnnext", engine], rounds=1, seconds=0)
    assert ours.error == 0 and theirs.error < 1e-5


@pytest.fixture
def failing_pnnx(monkeypatch, tmp_path):
    (tmp_path / "pnnx").write_text("#!/bin/sh\necho unknown operator Spin\nexit 3\n")
    (tmp_path / "pnnx").chmod(0o755)
    (tmp_path / "pnnx.py").write_text(f"EXEC_PATH = {str(tmp_path / 'pnnx')!r}")
    monkeypatch.delitem(sys.modules, "pnnx", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_model_that_pnnx_does_not_convert(failing_pnnx, tmp_path):
    model, feed = model_and_feed(1)
    with pytest.raises(ValueError, match=r"pnnx does not convert the model \(code 3\): unknown operator Spin"):
        _pnnx._convert(model, feed, tmp_path)


def test_inputs_of_different_batches_in_ncnn():
    pytest.importorskip("ncnn")
    with pytest.raises(ValueError, match=r"all inputs need one batch; they have \[1, 2\]"):
        _pnnx.open_ncnn(b"", {"a": np.zeros((1, 2)), "b": np.zeros((2, 2))}, 1)
