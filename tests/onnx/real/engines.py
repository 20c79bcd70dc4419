"""cnnext and ONNX Runtime under one signature, and both at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

import cnnext as cx

TOLERANCE = 1e-4  # of the largest magnitude of an output


def open_cnnext(model: str | ModelProto, threads: int = 2) -> cx.InferenceSession:
    """A session of cnnext."""
    return cx.InferenceSession(model, num_threads=threads)


def open_onnxruntime(model: str | ModelProto, threads: int = 2) -> ort.InferenceSession:
    """A session of ONNX Runtime whose workers sleep between runs: in the same process they would take the other's cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model if isinstance(model, str) else model.SerializeToString(), options,
                                providers=["CPUExecutionProvider"])


class Both:
    """A session of cnnext that holds every result to ONNX Runtime's, on the same input."""

    def __init__(self, model: str | ModelProto, tolerance: float = TOLERANCE):
        self.tolerance = tolerance
        self.cnnext, self.onnxruntime = open_cnnext(model), open_onnxruntime(model)
        self.runs = 0

    def get_inputs(self) -> list[Any]:
        """Those of cnnext, which must have the names that ONNX Runtime gives."""
        inputs = self.cnnext.get_inputs()
        assert [x.name for x in inputs] == [x.name for x in self.onnxruntime.get_inputs()]
        return inputs

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The results of cnnext."""
        found, expected = self.cnnext.run(names, feed), self.onnxruntime.run(names, feed)
        assert_close(found, expected, self.tolerance)
        self.runs += 1
        return found


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = TOLERANCE) -> None:
    """Same number, shapes and dtypes; equal within ``tolerance`` of the largest magnitude of each output."""
    assert [(a.shape, a.dtype) for a in found] == [(b.shape, b.dtype) for b in expected]
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
