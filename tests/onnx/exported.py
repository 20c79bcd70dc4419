"""Models in ONNX Runtime, and whether they give there what they give here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnext as cx
from cnnext.layers.layer import Layer
from tests.helpers import close, images

BATCHES = (1, 3)


def randomize(net: cx.Model, seed: int = 5) -> cx.Model:
    """Weights other than the initial ones, as training makes them; variances stay positive."""
    rng = np.random.default_rng(seed)
    for parameter in net.parameters:
        shape = parameter.data.shape
        parameter.assign(rng.uniform(0.5, 2, shape) if "variance" in parameter.name else rng.normal(0.1, 0.5, shape))
    return net


def made_of(layer: Layer, shapes: list[tuple[int, ...]]) -> cx.Model:
    """A model of one layer, behind an absolute value where that needs positive numbers."""
    inputs = [cx.Input(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    sources = inputs
    if isinstance(layer, (cx.Log, cx.Sqrt, cx.Power)):
        sources = [cx.Abs(name=f"abs{i}")(x) for i, x in enumerate(inputs)]
    return randomize(cx.Model(inputs, layer(sources)))


def session(proto: Any) -> Any:
    """A session of ONNX Runtime that keeps its warnings to itself."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check_export(net: cx.Model, opset: int = 17, seed: int = 3) -> Any:
    """Export a model, compare its outputs in ONNX Runtime for two batches, and return the ModelProto."""
    from cnnext.onnx.exporter import export

    proto = export(net, opset)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
    there = session(proto)
    assert [v.name for v in there.get_inputs()] == [v.name for v in net.graph.inputs]
    for n in BATCHES:
        x = [images(n, *v.shape[1:], seed=seed + i) for i, v in enumerate(net.graph.inputs)]
        wanted = net.predict(x)
        wanted = wanted if isinstance(wanted, list) else [wanted]
        got = there.run(None, {v.name: a for v, a in zip(there.get_inputs(), x, strict=True)})
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            close(a, b, 1e-5)
    return proto
