"""An exported network in float64, operator by operator in NumPy: what float32 results are held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, helper, numpy_helper

from cnnext.onnx import numpy_ops
from cnnext.onnx.operator import Operator


def run(proto: Any, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of an ONNX model with every float in float64.

    Parameters
    ----------
    proto : onnx.ModelProto
    feed : dict of str to ndarray
    """
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    values: dict[str, Any] = {"": None}
    values.update({tensor.name: _widened(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer})
    values.update({name: _widened(array) for name, array in feed.items()})
    last = {name: node for node in proto.graph.node for name in node.input}
    wanted = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        attributes = {a.name: _attribute(a) for a in node.attribute}
        op = Operator(node.op_type, node.domain, versions[node.domain], attributes, tuple(map(bool, node.output)))
        results = numpy_ops.evaluate(op, [values[name] for name in node.input])
        values.update(zip(node.output, map(_widened, results), strict=True))
        for name in set(node.input) - wanted:
            if name and last[name] is node:
                del values[name]
    return [values[value.name] for value in proto.graph.output]


def _widened(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype == np.float32 else array


def _attribute(a: Any) -> Any:
    value = helper.get_attribute_value(a)
    if a.type == AttributeProto.TENSOR:
        return _widened(numpy_helper.to_array(value))
    return value.decode() if isinstance(value, bytes) else value
