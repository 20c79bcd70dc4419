"""Choose between own function and reference implementation; bound what is allocated; name the operator in every error."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.graph.memory import MAX_ELEMENTS, check_memory
from cnnext.onnx.numpy_ops import reference
from cnnext.onnx.numpy_ops.common import Array, Contents, TensorType, Types, refuse
from cnnext.onnx.numpy_ops.families import OPERATORS, RULES
from cnnext.onnx.operator import Operator


def _own(op: Operator, table: dict[str, Any]) -> Any:
    return table.get(op.title)


def is_supported(op: Operator) -> bool:
    """Whether `evaluate` has an own function or ``onnx.reference`` has one."""
    return _own(op, OPERATORS) is not None or reference.is_supported(op)


def evaluate(op: Operator, inputs: Sequence[Array | None], max_elements: int = MAX_ELEMENTS) -> list[Array | None]:
    """Compute an operator.

    Parameters
    ----------
    op : Operator
    inputs : sequence of ndarray or None
        By position; None for one left out. They are not written to.
    max_elements : int
        Limit for the elements of one output, checked before it is allocated where its shape can be told before.

    Returns
    -------
    list of ndarray or None
        By position, as many as `op.wanted` has; None may stand for one that is not wanted. They may be views of inputs.

    Raises
    ------
    ValueError
        For attributes, shapes or contents that the operator does not take, an output beyond `max_elements`, and an operator
        that is unknown.
    TypeError
        For dtypes and attribute types that the operator does not take.
    """
    trimmed = _trim(inputs)
    own = all(x is None or isinstance(x, np.ndarray) for x in trimmed)  # sequences are the reference's affair
    function = _own(op, OPERATORS) if own else None
    try:
        types = _told(op, [None if x is None else (x.dtype, x.shape) for x in trimmed], trimmed) if own else None
        _check_size(op, types, max_elements)
        with np.errstate(all="ignore"):
            result = function(op, *trimmed) if function is not None else NotImplemented
            if result is NotImplemented:
                result = reference.evaluate(op, trimmed)
    except TypeError as e:
        raise TypeError(_complaint(op, trimmed, e)) from e
    except Exception as e:  # of any kind: the file decides what reaches NumPy
        raise ValueError(_complaint(op, trimmed, e)) from e
    outputs = [_finished(y) for y in (result if isinstance(result, tuple) else (result,))]
    outputs = outputs[:len(op.wanted)] + [None] * (len(op.wanted) - len(outputs))
    for wanted, y in zip(op.wanted, outputs, strict=True):
        if wanted and y is None:
            raise refuse(op, "outputs", "be ones that the operator has", len(op.wanted))
    for y, expected in zip(outputs, types or ()):
        if y is not None and (y.dtype, y.shape) != expected:  # NumPy takes more dtypes and shapes than ONNX
            reason = ValueError if y.dtype == expected[0] else TypeError
            wrong = f"gives {y.dtype} {y.shape} instead of {expected[0]} {expected[1]}"
            raise reason(_complaint(op, trimmed, reason(wrong)))
    return outputs


def _finished(y: Any) -> Any:
    if y is None or isinstance(y, list):
        return y
    y = np.asarray(y)  # some functions give scalars
    return y.astype(object) if y.dtype.kind in "US" else y


def _trim(inputs: Sequence[Array | None]) -> list[Array | None]:
    """Drop what is left out at the end: there it is the same as not given."""
    end = len(inputs)
    while end and inputs[end - 1] is None:
        end -= 1
    return list(inputs[:end])


def _told(op: Operator, types: Types, contents: Contents) -> list[TensorType] | None:
    """Dtypes and shapes of the outputs, by an own rule or by shape inference."""
    rule = _own(op, RULES)
    result = rule(op, types, contents) if rule is not None else NotImplemented
    return reference.infer(op, types, contents) if result is NotImplemented else result


def _check_size(op: Operator, types: Sequence[TensorType] | None, max_elements: int) -> None:
    for _, shape in types or ():
        if prod(shape) > max_elements:
            raise refuse(op, "output", f"have at most {max_elements} elements", shape)
    check_memory(op.title, sum(prod(shape) * dtype.itemsize for dtype, shape in types or ()))


def _complaint(op: Operator, inputs: Sequence[Array | None], error: Exception) -> str:
    text = str(error)
    if text.startswith(op.title + ": "):
        return text
    seen = [getattr(x, "shape", x) for x in inputs]
    dtypes = ", ".join(str(getattr(x, "dtype", type(x).__name__)) for x in inputs[:8])
    return message(op.title, "inputs", "be what the operator takes", seen, f"{dtypes}; {type(error).__name__}: {text[:300]}")


def infer(op: Operator, inputs: Types, contents: Contents) -> list[TensorType] | None:
    """Tell dtype and shape of each output without computing it.

    Parameters
    ----------
    op : Operator
    inputs : sequence of (dtype, shape) or None
        By position; None for one left out.
    contents : sequence of ndarray or None
        The inputs whose contents are known; None for the others. May be shorter than `inputs`.

    Returns
    -------
    list of (dtype, shape) or None
        One for each output up to the last one wanted; None when a shape depends on contents that are not known.

    Raises
    ------
    ValueError, TypeError
        As `evaluate`.
    """
    types = list(inputs)
    while types and types[-1] is None:
        types.pop()
    known = list(contents[:len(types)]) + [None] * (len(types) - len(contents))
    try:
        result = _told(op, types, known)
        _check_size(op, result, MAX_ELEMENTS)
    except TypeError as e:
        raise TypeError(_type_complaint(op, types, e)) from e
    except Exception as e:
        raise ValueError(_type_complaint(op, types, e)) from e
    return result


def _type_complaint(op: Operator, types: Types, error: Exception) -> str:
    text = str(error)
    if text.startswith(op.title + ": "):
        return text
    return message(op.title, "inputs", "be what the operator takes", [t and t[1] for t in types],
                   f"{type(error).__name__}: {text[:300]}")
