"""Which operators can be computed, by whom, and what to install for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cnnext.errors import ModelFileError
from cnnext.onnx.operator import Operator

if TYPE_CHECKING:
    from cnnext.graph.graph import Value
    from cnnext.onnx.site import Site

Rule = Callable[["Site"], "Value | list[Value] | None"]

# Operators of ONNX itself that first-party plugins bring.
_KNOWN_PROVIDERS = {
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization",
                     "RMSNormalization", "LRN"), "cnnext-normalization"),
    **dict.fromkeys(("Slice", "Split"), "cnnext-slice-split"),
}
# What NumPy could compute, but not as tensors of numbers.
_NO_TENSORS = frozenset((
    "ConcatFromSequence", "ImageDecoder", "Optional", "OptionalGetElement", "OptionalHasElement", "RegexFullMatch",
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap",
    "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer",
))


def rule_of(op: Operator) -> Rule | None:
    """How an operator becomes layers: by a built-in rule, one of an installed plugin, or as a layer of one."""
    from cnnext.onnx.rules import RULES
    from cnnext.onnx.vendor import layer_of, vendor_rule
    from cnnext.plugins import onnx_rule

    if op.domain == "" and op.op_type in RULES:
        return RULES[op.op_type]
    rule = onnx_rule(op.domain, op.op_type)
    if rule is None and op.domain and layer_of(op) is not None:
        return vendor_rule
    return rule


def is_supported(op: Operator) -> bool:
    """Whether something installed computes the operator."""
    if op.domain == "" and op.op_type in _NO_TENSORS or any(_is_subgraph(value) for value in op.attributes.values()):
        return False
    if op.domain == "" and op.op_type in _KNOWN_PROVIDERS:
        return rule_of(op) is not None
    if rule_of(op) is not None:
        return True
    from cnnext.onnx.numpy_ops import is_supported as has_numpy  # with onnx.reference, which most models do not need

    return has_numpy(op)


def _is_subgraph(value: Any) -> bool:
    return hasattr(value, "SerializeToString")


def unsupported(operators: Iterable[tuple[Operator, str]]) -> list[str]:
    """A line for each operator that nothing installed computes: its name, its nodes, and who brings it if that is known."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for op, node_name in operators:
        if not is_supported(op):
            nodes.setdefault((op.domain, op.op_type), []).append(node_name)
    return [_line(domain, op_type, names) for (domain, op_type), names in nodes.items()]


def _line(domain: str, op_type: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    text = f"{domain}::{op_type}" if domain else op_type
    line = f"{text} ({'node' if len(names) == 1 else 'nodes'} {shown})"
    if domain == "" and op_type in _KNOWN_PROVIDERS:
        line += f": pip install {_KNOWN_PROVIDERS[op_type]}"
    return line


def check_supported(operators: Iterable[tuple[Operator, str]]) -> None:
    """Refuse a model with operators that nothing installed computes.

    Raises
    ------
    ModelFileError
        With all of them at once.
    """
    lines = unsupported(operators)
    if lines:
        raise ModelFileError("operators that nothing installed computes: " + "; ".join(lines) + ".")
