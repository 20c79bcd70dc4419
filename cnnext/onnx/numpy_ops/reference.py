"""The operators as the ``onnx`` package computes them: its reference implementation, schemas and shape inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

from cnnext.errors import message
from cnnext.onnx.numpy_ops.common import Array, Contents, TensorType, Types
from cnnext.onnx.operator import Operator

_WRONG_SHAPES = ("STFT",)  # counts all frequencies where `onesided` asks for half of them
_CONTENT_BYTES = 1 << 16  # larger contents cannot be shapes, axes or counts, so shape inference does not read them
_runs: WeakKeyDictionary[Operator, dict[Any, Any]] = WeakKeyDictionary()
_nodes: WeakKeyDictionary[Operator, dict[Any, Any]] = WeakKeyDictionary()


def schema(op: Operator) -> Any:
    """Give the schema of the operator at its version, or None."""
    try:
        return onnx.defs.get_schema(op.op_type, op.version, op.domain)
    except onnx.defs.SchemaError:
        return None


def _attribute(name: str, value: Any, declared: Any) -> Any:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, numpy_helper.from_array(value))
    kind = declared.attributes[name].type.value if declared and name in declared.attributes else None
    return helper.make_attribute(name, value, attr_type=kind)


def node(op: Operator, present: tuple[bool, ...]) -> Any:
    """Build the operator's ``NodeProto``: inputs ``x0``, ``x1``, ... where present, outputs ``y0``, ... up to the last."""
    cached = _nodes.setdefault(op, {})
    if present not in cached:
        declared = schema(op)
        result = helper.make_node(op.op_type, [f"x{i}" if there else "" for i, there in enumerate(present)],
                                  [f"y{i}" for i in range(len(op.wanted))], domain=op.domain)
        result.attribute.extend(_attribute(name, value, declared) for name, value in op.attributes.items()
                                if value is not None)
        cached[present] = result
    return cached[present]


def _presence(inputs: Sequence[object]) -> tuple[bool, ...]:
    return tuple(x is not None for x in inputs)


def evaluator(op: Operator, present: tuple[bool, ...]) -> Any:
    """Give the callable of the reference implementation; raises what that raises where there is none."""
    from onnx.reference import ReferenceEvaluator  # an import of fifty modules, for operators that few models have
    from onnx.reference.op_run import OpFunction

    cached = _runs.setdefault(op, {})
    if present not in cached:
        made = node(op, present)
        graph = helper.make_graph([made], op.op_type, [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
                                                       for name in made.input if name],
                                  [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
                                   for name in made.output])
        reference = ReferenceEvaluator(graph, opsets={"": onnx.defs.onnx_opset_version(), op.domain: op.version})
        run = reference.rt_nodes_[0]
        declared = schema(op)
        if declared is not None and not isinstance(run, OpFunction) and run._schema is not declared:
            _set_defaults(run, made, declared)
        cached[present] = run
    return cached[present]


def _set_defaults(run: Any, made: Any, declared: Any) -> None:
    """Give a run the attributes and defaults of its own version, where the evaluator takes those of the newest."""
    own = {a.name for a in made.attribute}
    run.attributes_names_ = own | set(declared.attributes)
    for name, attribute in declared.attributes.items():
        if name not in own:
            default = attribute.default_value
            # A tensor or a type of 0 says that the default depends on the inputs.
            known = default.type and not (default.type == onnx.AttributeProto.TENSOR and not default.t.data_type)
            setattr(run, name, run._extract_attribute_value(default) if known else None)


def evaluate(op: Operator, inputs: Sequence[Array | None]) -> Sequence[Any]:
    """Run the reference implementation."""
    return evaluator(op, _presence(inputs)).run(*inputs)


def is_supported(op: Operator) -> bool:
    """Whether the ``onnx`` package has a reference implementation."""
    declared = schema(op)
    if declared is None:
        return False
    try:
        return not evaluator(op, (True,) * declared.min_input).has_subgraph  # which reads values from around the operator
    except Exception:  # of many kinds: an attribute that is missing, no implementation, a function body that is refused
        return False


def infer(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    """Run the package's shape inference on one node; None where it leaves a dtype or an extent open."""
    declared = schema(op)
    if declared is None or op.op_type in _WRONG_SHAPES:
        return None
    made = node(op, _presence(types))
    known = {f"x{i}": helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(t[0]), t[1])
             for i, t in enumerate(types) if t is not None}
    data = {f"x{i}": numpy_helper.from_array(c) for i, c in enumerate(contents)
            if c is not None and c.nbytes <= _CONTENT_BYTES}
    try:
        found = infer_node_outputs(declared, made, known, data,
                                   opset_imports=[helper.make_opsetid(op.domain, op.version)])
    except Exception as e:
        raise ValueError(message(op.title, "inputs", "be what the operator takes", types, str(e)[:300])) from e
    result: list[TensorType] = []
    for name in made.output:
        one = found.get(name)
        if one is None or not one.HasField("tensor_type") or not one.tensor_type.HasField("shape"):
            return None
        dims, element = one.tensor_type.shape.dim, one.tensor_type.elem_type
        if not all(d.HasField("dim_value") for d in dims):
            return None
        result.append((np.dtype(helper.tensor_dtype_to_np_dtype(element)), tuple(d.dim_value for d in dims)))
    return result
