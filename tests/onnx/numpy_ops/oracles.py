"""One operator through other implementations: ONNX Runtime and the reference implementation of the onnx package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cnnext.onnx import numpy_ops
from cnnext.onnx.numpy_ops import reference
from cnnext.onnx.operator import Operator

Arrays = Sequence[np.ndarray | None]


def evaluate(op: Operator, inputs: Arrays) -> list[np.ndarray | None]:
    """``numpy_ops.evaluate``, with `infer` held against it: with all contents known, and with none."""
    inputs = [x if x is None else np.asarray(x) for x in inputs]  # NumPy gives scalars where arrays have no axes
    outputs = numpy_ops.evaluate(op, inputs)
    types = [None if x is None else (x.dtype, x.shape) for x in inputs]
    for contents in (inputs, [None] * len(inputs)):
        found = numpy_ops.infer(op, types, contents)
        if found is not None:
            for wanted, y, t in zip(op.wanted, outputs, found, strict=True):
                assert not wanted or (y.dtype, y.shape) == t, (op, t, y.dtype, y.shape)
    return outputs


def onnxruntime(op: Operator, inputs: Arrays) -> list[np.ndarray | None]:
    """What ONNX Runtime computes."""
    ort = pytest.importorskip("onnxruntime")
    node = onnx.NodeProto()
    node.CopyFrom(reference.node(op, tuple(x is not None for x in inputs)))
    given = {f"x{i}": np.asarray(x) for i, x in enumerate(inputs) if x is not None}
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
         for name, x in given.items()],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output])
    for value in graph.output:
        value.ClearField("type")  # ONNX Runtime infers it
    domains = {"": 17, op.domain: op.version} if op.domain else {"": op.version}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)


def onnx_reference(op: Operator, inputs: Arrays) -> list[np.ndarray | None]:
    """What the reference implementation computes."""
    return [np.asarray(y) for y in reference.evaluate(op, inputs)]


def check(op: Operator, inputs: Arrays, expected: Sequence[np.ndarray | None], rtol: float = 1e-4,
          atol: float = 1e-5) -> None:
    """Hold `evaluate` to what another computes: dtypes, shapes, values."""
    outputs = evaluate(op, inputs)
    for wanted, y, z in zip(op.wanted, outputs, expected, strict=True):
        if wanted:
            assert (y.dtype, y.shape) == (z.dtype, z.shape), op
            np.testing.assert_allclose(y.astype(np.float64), z.astype(np.float64), rtol=rtol, atol=atol, err_msg=str(op))
