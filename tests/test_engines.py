"""Engines in processes of their own: their outputs are compared, their runs timed, their faults told."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
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
