"""Operators in a vendor's domain that are layers of an installed plugin: what the exporter writes for those, read back."""

from __future__ import annotations

import json
from typing import Any

from cnnext.errors import PluginError
from cnnext.graph.graph import Value
from cnnext.layers.layer import Layer
from cnnext.onnx.operator import Operator
from cnnext.onnx.site import Site
from cnnext.plugins import layer_class


def layer_of(op: Operator) -> type[Layer] | None:
    """The layer ``domain/OpType@version``, or None where no installed plugin has it."""
    try:
        return layer_class(f"{op.domain}/{op.op_type}@{op.version}")
    except PluginError:
        return None


def vendor_rule(s: Site) -> list[Value] | None:
    """The operator as its layer: data first, then the weights in the layer's order, as ``Layer.parameters`` names them."""
    cls = layer_of(s.op)
    values = [v for v in s.inputs if v is not None]
    if cls is None or len(values) != len(s.inputs):
        return None
    layer = cls.from_config({key: _attribute(cls, s, key, value) for key, value in s.op.attributes.items()}, s.name)
    for n in range(len(values), 0, -1):
        if layer.n_inputs in (None, n):
            keys = layer.parameter_names(*(v.shape for v in values[:n]))
            if n + len(keys) == len(values):
                made = s.g.apply(layer, *values[:n], weights=dict(zip(keys, values[n:], strict=True)), name=s.name)
                return [v for v, wanted in zip(made, s.op.wanted, strict=True) if wanted]
    raise s.error("inputs", "be the layer's sources and weights", len(values))


def _attribute(cls: type[Layer], s: Site, key: str, value: Any) -> Any:
    """An attribute as the layer wants it; what ONNX has no type for was written as JSON."""
    if key not in cls.attributes:
        raise s.error(key, f"be an attribute of {cls.type_name}", value)
    value = tuple(value) if isinstance(value, list) else value
    if not isinstance(value, str):
        return value
    try:
        cls.attributes[key].check(s.layer.where, key, value)
    except (ValueError, TypeError):
        from cnnext.serialization import from_json

        return from_json(json.loads(value))
    return value
