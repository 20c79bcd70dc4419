"""Small ONNX models, their outputs in ONNX Runtime, and the kernels that computed them here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import cnnext as cx
from cnnext.graph.plan import Plan
from tests.helpers import close
from tests.onnx.exported import session

Declared = Sequence[Any] | tuple[type, Sequence[Any]]


def _info(name: str, declared: Declared) -> Any:
    dtype, shape = declared if len(declared) == 2 and isinstance(declared[0], type) else (np.float32, declared)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def onnx_model(nodes: Sequence[Any], inputs: Mapping[str, Declared], outputs: Sequence[str],
               weights: Mapping[str, Any] | None = None, opset: int = 17, types: Mapping[str, Declared] | None = None,
               domains: Mapping[str, int] | None = None, ir: int = 8, functions: Sequence[Any] = ()) -> Any:
    """A checked model; an input is declared by its extents or by (dtype, extents), texts in them are open."""
    declared = [_info(name, types[name]) if types and name in types else helper.make_empty_tensor_value_info(name)
                for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "net", [_info(*pair) for pair in inputs.items()], declared, tensors)
    versions = {"": opset, **(domains or {})}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*pair) for pair in versions.items()],
                             ir_version=ir, functions=list(functions))


def one_node(op_type: str, arrays: Sequence[Any], constants: Mapping[int, Any] | None = None, opset: int = 17,
             outputs: int = 1, **attributes: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one node and its feed: ``arrays`` come with the run, ``constants`` by position are initializers."""
    constants = dict(constants or {})
    rest = iter(arrays)
    n_inputs = len(arrays) + len(constants)
    names = [("" if constants[i] is None else f"c{i}") if i in constants else f"x{i}" for i in range(n_inputs)]
    feed = {name: np.asarray(next(rest)) for i, name in enumerate(names) if i not in constants}
    weights = {f"c{i}": array for i, array in constants.items() if array is not None}
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, name="it", **attributes)
    inputs = {name: (array.dtype.type, array.shape) for name, array in feed.items()}
    return onnx_model([node], inputs, results, weights, opset), feed


def kernels(ours: cx.InferenceSession, feed: Mapping[str, np.ndarray]) -> list[str]:
    """The kernels of the plan, of its first stage where it has several; identity models copy only."""
    return [step.kernel for step in plan(ours, feed).steps]


def plan(ours: cx.InferenceSession, feed: Mapping[str, np.ndarray]) -> Plan:
    """The plan of the first stage."""
    return ours.plan(*(np.shape(feed[v.name]) for v in ours.get_inputs()))


def check(proto: Any, *feeds: Mapping[str, Any], tolerance: float = 1e-5) -> list[str]:
    """Compare with ONNX Runtime for each feed; the kernels of the last one's plan."""
    there, ours = session(proto), cx.InferenceSession(proto)
    assert [v.name for v in ours.get_inputs()] == [v.name for v in there.get_inputs()]
    assert [v.name for v in ours.get_outputs()] == [v.name for v in there.get_outputs()]
    for feed in feeds:
        for got, wanted in zip(ours.run(None, feed), there.run(None, feed), strict=True):
            equal(got, wanted, tolerance)
    return kernels(ours, feeds[-1])


def equal(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    """Of one type and shape, floats close, others equal."""
    assert got.dtype == wanted.dtype
    if got.dtype.kind == "f":
        close(got, wanted, tolerance)
    else:
        np.testing.assert_array_equal(got, wanted)


def is_native(names: Sequence[str]) -> bool:
    """Whether kernels computed all: no step is NumPy's."""
    return not any(name.startswith("numpy") for name in names)


def newest() -> int:
    """The newest operator set that the package onnx knows."""
    return int(onnx.defs.onnx_opset_version())
