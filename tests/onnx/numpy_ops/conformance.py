"""The node cases of ONNX's own conformance suite; ``python -m tests.onnx.numpy_ops.conformance`` prints a table."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from cnnext.onnx import numpy_ops
from cnnext.onnx.operator import Operator


@cache
def cases() -> dict[str, Any]:
    """All node cases by name; about ten seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


def primaries() -> dict[str, Any]:
    """Those of one node."""
    return {name: case for name, case in cases().items() if "_expanded" not in name}


def _attribute(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode()
    if attribute.type == AttributeProto.STRINGS:
        return [v.decode() for v in value]
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(value)
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def operator(node: Any, versions: dict[str, int]) -> Operator:
    """A node as an Operator."""
    return Operator(node.op_type, node.domain, versions[node.domain], {a.name: _attribute(a) for a in node.attribute},
                    tuple(bool(name) for name in node.output))


def _value(x: Any) -> Any:
    x = numpy_helper.to_array(x) if isinstance(x, TensorProto) else x
    return x if x is None or isinstance(x, (np.ndarray, list)) else np.asarray(x)


def _same(case: Any, y: Any, z: Any) -> None:
    if isinstance(z, list):
        assert isinstance(y, list) and len(y) == len(z)
        for a, b in zip(y, z, strict=True):
            _same(case, a, _value(b))
    elif z is None:
        assert y is None
    elif z.dtype.kind in "OUT":
        assert y.shape == z.shape and y.tolist() == z.tolist()
    else:
        assert (y.dtype, y.shape) == (z.dtype, z.shape)
        exact = y.dtype.kind in "biu"
        a, b = (v if exact else v.astype(np.float64) for v in (y, z))
        np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.atol)


def check_inference(op: Operator, inputs: list[Any], outputs: list[Any]) -> bool:
    """Hold `infer` to the outputs; whether it knew them when it knew all contents."""
    if not all(v is None or isinstance(v, np.ndarray) for v in (*inputs, *outputs)):
        return True
    types = [None if x is None else (x.dtype, x.shape) for x in inputs]
    known = True
    for contents in (inputs, [None] * len(inputs)):
        found = numpy_ops.infer(op, types, contents)
        if found is not None:
            for wanted, y, t in zip(op.wanted, outputs, found, strict=True):
                assert not wanted or (y.dtype, y.shape) == t, f"infer: {t}, evaluate: {y.dtype} {y.shape}"
        known &= found is not None or contents is not inputs
    return known


def run(case: Any) -> Iterator[tuple[Operator, bool]]:
    """Evaluate the nodes of a case one after the other, check the outputs; each operator, and whether `infer` knew it."""
    model = case.model
    versions = {o.domain: o.version for o in model.opset_import}
    operators = [operator(node, versions) for node in model.graph.node]
    for inputs, expected in case.data_sets:
        values = {"": None, **{t.name: numpy_helper.to_array(t) for t in model.graph.initializer}}
        values.update(zip((v.name for v in model.graph.input), map(_value, inputs), strict=False))
        for op, node in zip(operators, model.graph.node, strict=True):
            read = [values[name] for name in node.input]
            outputs = numpy_ops.evaluate(op, read)
            yield op, check_inference(op, read, outputs)
            values.update((name, y) for name, y in zip(node.output, outputs, strict=True) if name)
        for value, z in zip(model.graph.output, expected, strict=True):
            _same(case, values[value.name], _value(z))


@cache
def outcome(name: str) -> tuple[str, frozenset[str]]:
    """Why a case fails, nothing if it passes; and the operators of which `infer` did not know the shapes."""
    case, unknown = cases()[name], set()
    try:
        for op, known in run(case):
            unknown |= set() if known else {op.title}
    except Exception as e:
        return f"{name}: {type(e).__name__}: {str(e)[:200]}", frozenset(unknown)
    return "", frozenset(unknown)


def main() -> None:
    """Print how many cases of each operator pass."""
    passed, total = Counter(), Counter()
    for name, case in primaries().items():
        op_type = case.model.graph.node[0].op_type
        total[op_type] += 1
        passed[op_type] += not outcome(name)[0]
    for op_type in sorted(total):
        print(f"{op_type:28} {passed[op_type]:3} / {total[op_type]}")
    print(f"all                          {passed.total()} / {total.total()} (onnx {onnx.__version__})")


if __name__ == "__main__":
    main()
