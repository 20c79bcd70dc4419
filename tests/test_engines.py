"""Engines in processes of their own: their outputs are compared, their runs timed, their faults told."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import cnnext as cx
from cnnext import engines
from cnnext.engines import ENGINES, compare

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def model_and_feed():
    from cnnext.onnx.exporter import export

    net = cx.Sequential([cx.Input((6, 6, 2), name="x"), cx.Conv2D(3, 3), cx.Flatten(), cx.Dense(4)])
    return export(net).SerializeToString(), {"x": np.random.default_rng(0).standard_normal((2, 6, 6, 2)).astype(np.float32)}


def test_two_engines_take_turns():
    model, feed = model_and_feed()
    first, second = compare(model, feed, ["cnnext", "onnxruntime"], rounds=2, seconds=0.01)
    assert (first.engine, second.engine) == ("cnnext", "onnxruntime")
    assert len(first.seconds) >= 6 and len(second.seconds) >= 6
    assert 0 < first.best <= first.median
    assert first.error == 0 and second.error <= 1e-5


def test_engines_that_compute_something_else_are_not_timed():
    model, feed = model_and_feed()
    with pytest.raises(cx.CnnextError, match="`outputs` must agree with those of cnnext"):
        compare(model, feed, ["cnnext", "onnxruntime"], rounds=1, seconds=0, tolerance=-1)


def test_a_model_that_an_engine_cannot_run():
    with pytest.raises(cx.CnnextError, match="^cnnext: ModelFileError"):
        compare(b"no model", {}, ["cnnext"])


def test_an_unknown_engine():
    with pytest.raises(ValueError, match="unknown engine 'ort'"):
        compare(b"", {}, ["ort"])
    assert next(iter(ENGINES)) == "cnnext"


PROGRAM = """
import numpy as np
import cnnext as cx
from cnnext.engines import compare
from cnnext.onnx.exporter import export
net = cx.Sequential([cx.Input((4, 4, 2), name="x"), cx.Flatten(), cx.Dense(3)])
feed = {"x": np.ones((1, 4, 4, 2), np.float32)}
print([t.engine for t in compare(export(net).SerializeToString(), feed, ["cnnext", "cnnext-exact"], rounds=1, seconds=0)])
"""


def test_a_program_from_standard_input():
    done = subprocess.run([sys.executable, "-"], input=PROGRAM, text=True, capture_output=True, timeout=120)
    assert done.stdout == "['cnnext', 'cnnext-exact']\n", done.stderr


def test_a_program_without_a_guard(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], text=True, capture_output=True, timeout=120)
    assert done.stdout == "['cnnext', 'cnnext-exact']\n", done.stderr


def test_a_process_that_ends(monkeypatch):
    monkeypatch.setattr(engines, "_CHILD", "raise SystemExit")
    with pytest.raises(cx.CnnextError, match=r"^cnnext: its process ended\."):
        compare(b"", {}, ["cnnext"])


class Pipe:
    """The engine's end: gives what it is to do, keeps what it answers."""

    def __init__(self, *received):
        self.received, self.sent = list(received), []

    def recv(self):
        if not self.received:
            raise EOFError
        return self.received.pop(0)

    def send(self, answer):
        self.sent.append(answer)


@pytest.mark.parametrize("name, module, words", [
    ("torch", "torch", "pip install torch pnnx"), ("ncnn", "ncnn", "pip install ncnn pnnx"),
    ("openvino", "openvino", "pip install openvino"),
])
def test_an_engine_that_is_not_installed(monkeypatch, name, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    model, feed = model_and_feed()
    pipe = Pipe((name, partial(engines._fed, name, model, feed, 1)))
    engines.serve(pipe)
    [answer] = pipe.sent
    assert answer.startswith("not installed") and answer.endswith(words)


def test_tuned(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path))
    model, feed = model_and_feed()
    assert compare(model, feed, ["cnnext", "cnnext-tuned"], rounds=1, seconds=0)[1].error <= 1e-4
