"""Models as ONNX files: ``export``, and ``save``, which is ``Model.export_onnx``.

The exporter walks the model's graph in its inference form and asks each layer for its ``to_onnx``. It takes care itself of
what layers have in common: identities vanish, ``data_format`` is a matter of names, a fused ``activation`` is a node of its
own. A layer without ``to_onnx`` is written out as what it is composed of; one of a plugin becomes an operator in the domain
of its vendor, with a function body where it is composed.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from cnnext._files import atomic_write
from cnnext.errors import message
from cnnext.graph.graph import FLOAT32, Graph, Node, Shape, Value
from cnnext.graph.passes.expand import channels_last_twin, composition
from cnnext.layers.activation import activation_layer
from cnnext.layers.attributes import as_int
from cnnext.layers.layer import Layer, to_channels_first, to_channels_last
from cnnext.model import Model
from cnnext.onnx.builder import Library, OnnxBuilder
from cnnext.onnx.files import require_onnx
from cnnext.onnx.layer import OnnxOperator
from cnnext.plugins import contained

__all__ = ["DEFAULT_OPSET", "NEWEST_OPSET", "OLDEST_OPSET", "export", "save"]

onnx = require_onnx()

DEFAULT_OPSET = 17
OLDEST_OPSET = 13   # from here on Softmax means one axis, and Squeeze, Split, ReduceSum take their axes as inputs
NEWEST_OPSET = 28
FUNCTIONS_IR = 8    # the first IR version with functions
MAX_BYTES = 2**31 - 1


def save(model: Model, path: str | os.PathLike[str], opset: int | None = None) -> None:
    """Write a model as an ONNX file; a crash while writing leaves the previous file whole. See ``export``."""
    data = export(model, opset).SerializeToString()
    with atomic_write(path) as file:
        file.write(data)


def export(model: Model, opset: int | None = None) -> Any:
    """The model in its inference form as an ONNX ModelProto, checked.

    Parameters
    ----------
    model : Model
    opset : int, optional
        Version of ONNX's operators, from 13 to 28 and not beyond what the installed package onnx knows. By default 17, or
        for a model that was read from ONNX the version that it has.

    Returns
    -------
    onnx.ModelProto
        Inputs, outputs and initializers have the names of inputs, outputs and parameters, nodes those of layers; inputs
        and outputs have the shapes that they have here, the batch is the axis "N". The IR version is the oldest that has
        the opset (8 for 17).

    Warns
    -----
    UserWarning
        For a plugin layer that becomes an operator of its own without a function body, which only cnnext can run.

    Raises
    ------
    ImportError
        Without the package onnx.
    ValueError
        For an opset out of range, a model of 2 GiB or more, layers that cannot be exported, and operators of a model that
        was read from ONNX in another opset, if they changed between the two.
    """
    opset = _checked_opset(_default_opset(model) if opset is None else opset)
    graph, library = model.graph, Library()
    b = OnnxBuilder(opset, library)
    inputs = b.reserve(v.name for v in graph.inputs)
    outputs = b.reserve(v.name for v in graph.outputs)
    for value, name in zip(graph.inputs, inputs, strict=True):
        b.store(value, name, tuple(range(len(value.shape))))
    for node in graph.nodes:
        export_node(b, node)
    b.finish(graph.outputs, outputs)
    infos = (_value_infos(names, values, graph.shares_batch)
             for names, values in ((inputs, graph.inputs), (outputs, graph.outputs)))
    made = onnx.helper.make_graph(b.nodes, model.name or "model", *infos, b.initializers)
    return _checked_model(model, made, library, opset)


def _default_opset(model: Model) -> int:
    read = [layer.operator for layer in model.layers if isinstance(layer, OnnxOperator)]
    return max((operator.version for operator in read if not operator.domain), default=DEFAULT_OPSET)


def _checked_opset(opset: int) -> int:
    opset, newest = as_int("export_onnx", "opset", opset), min(NEWEST_OPSET, onnx.defs.onnx_opset_version())
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(message("export_onnx", "opset", f"be from {OLDEST_OPSET} to {newest}", opset))
    return opset


def _checked_model(model: Model, graph: Any, library: Library, opset: int) -> Any:
    from cnnext import __version__

    domains = {"": opset, **library.domains}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in domains.items()]
    ir_version = onnx.helper.find_min_ir_version_for(imports[:1])
    if library.functions:
        ir_version = max(ir_version, FUNCTIONS_IR)
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="cnnext",
                                   producer_version=__version__, functions=list(library.functions.values()))
    size = proto.ByteSize()
    if size > MAX_BYTES:
        raise ValueError(message(f"model {model.name!r}", "size", "be less than 2 GiB, which an ONNX file can hold", size))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _value_infos(names: Sequence[str], values: Sequence[Value], shares_batch: bool) -> list[Any]:
    found = []
    for name, value in zip(names, values, strict=True):
        axes = ["N" if axis == 0 and shares_batch else f"{name}_{axis}" for axis in range(len(value.shape))]
        shape = [axis if n is None else n for axis, n in zip(axes, value.shape, strict=True)]
        dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        found.append(onnx.helper.make_tensor_value_info(name, dtype, shape))
    return found


# Nodes


def export_node(b: OnnxBuilder, node: Node) -> None:
    """Append what a node of cnnext is in ONNX."""
    layer = node.layer
    made: list[Value] | None = node.inputs
    if not layer.is_identity(False):
        made = _export_own_operator(b, node) if _is_own_operator(layer) else _export_channels_last(b, node)
    if made is None:
        raise ValueError(message(layer.where, "type_name", "be set (vendor/Layer@version), or the layer define to_onnx, "
                                 "for an ONNX file to name it", layer.type_name))
    for value, source in zip(node.outputs, made, strict=True):
        if value is not source:
            b.alias(value, source)


def _is_own_operator(layer: Layer) -> bool:
    vendor = layer.type_name.partition("/")[0]
    return not _has_form(layer) and not layer.onnx_as_composed and vendor not in ("", "cnnext")


def _has_form(layer: Layer) -> bool:
    return type(layer).to_onnx is not Layer.to_onnx


def _export_channels_last(b: OnnxBuilder, node: Node) -> list[Value] | None:
    """Export a layer in its channels-last form; returns the values that its outputs are, None if it has no form in ONNX."""
    first, before = node.layer.data_format == "channels_first", b.node
    inner = Node(channels_last_twin(node.layer), node.inputs, node.weights, node.name)
    inner.outputs = node.outputs
    if first:
        inner.inputs = [_permuted(b, v, to_channels_last) for v in node.inputs]
        inner.outputs = [Value(to_channels_last(v.shape), v.dtype, v.name, inner) for v in node.outputs]
    b.node = inner
    made = _export_by_form(b, inner) if _has_form(inner.layer) else _export_composed(b, inner)
    b.node = before
    return [_permuted(b, v, to_channels_first) for v in made] if first and made is not None else made


def _permuted(b: OnnxBuilder, value: Value, rule: Callable[[Shape], Shape]) -> Value:
    permuted = Value(rule(value.shape), value.dtype, value.name)
    b.alias(permuted, value, tuple(axis or 0 for axis in rule(tuple(range(len(value.shape))))))
    return permuted


def _export_by_form(b: OnnxBuilder, node: Node) -> list[Value]:
    """Append the nodes that the layer names, and its activation."""
    with contained(node.layer, "to_onnx"):
        node.layer.to_onnx(b, node)
    activation = getattr(node.layer, "activation", None)
    if activation is None:
        return node.outputs
    function, g = activation_layer(activation), Graph([], [])
    values = [g.apply1(function, v, name=f"{node.name}/{type(function).__name__.lower()}") for v in node.outputs]
    for applied in g.nodes:
        export_node(b, applied)
    return values


def _export_composed(b: OnnxBuilder, node: Node) -> list[Value] | None:
    """Append the layers that a layer is composed of; None if it is not."""
    if not node.layer.type_name.startswith("cnnext/"):
        for value in node.inputs:   # compose rules of plugins may rely on them, as they do when a plan is made
            b.extents(value)
    g = Graph([], [])
    composed = composition(g, node.layer, node.inputs, node.weights)
    for part in g.nodes if composed is not None else []:
        export_node(b, part)
    return composed


# Operators of a vendor


def _export_own_operator(b: OnnxBuilder, node: Node) -> list[Value]:
    """Append an operator in its vendor's domain: the whole layer with its attributes, and its composition as a body."""
    layer = node.layer
    domain, _, rest = layer.type_name.partition("/")
    op_type, _, version = rest.partition("@")
    b.library.use(domain, int(version or 1))
    attributes, note = onnx_attributes(layer.config()), ""
    function = _function(b, node, domain, op_type, list(attributes))
    if function is None:
        note = f"an operator of the plugin layer {layer.type_name}: other runtimes than cnnext need an implementation of it"
        warnings.warn(f"{layer.where}: exported as {domain}::{op_type}, {note}.", stacklevel=2)
    sources = [b.get(v) for v in (*node.inputs, *node.weights.values())]
    b.operator(node, function or op_type, sources, attributes, domain, note)
    return node.outputs


def _function(b: OnnxBuilder, node: Node, domain: str, op_type: str, attributes: list[str]) -> str | None:
    """The name of the function that a composed layer is; equal bodies share one. None for a layer that is not composed."""
    layer = copy.copy(node.layer)
    layer.name = op_type.lower()
    sources = [Value(v.shape, v.dtype, f"x{i}") for i, v in enumerate(node.inputs)]
    weights = {key: Value(v.shape, FLOAT32, key) for key, v in node.weights.items()}
    body = OnnxBuilder(b.opset, b.library, function=True)
    inputs = body.reserve(v.name for v in (*sources, *weights.values()))
    outputs = body.reserve(f"y{i}" for i in range(len(node.outputs)))
    for value, name in zip((*sources, *weights.values()), inputs, strict=True):
        body.store(value, name, tuple(range(len(value.shape))))
    inner = Node(layer, sources, weights, layer.name)
    inner.outputs = [Value(v.shape, v.dtype, name, inner) for v, name in zip(node.outputs, outputs, strict=True)]
    made = _export_channels_last(body, inner)
    if made is None:
        return None
    body.finish(made, outputs)
    domains = {"": b.opset, **{n.domain: b.library.domains[n.domain] for n in body.nodes if n.domain}}
    imports = [onnx.helper.make_opsetid(*item) for item in domains.items()]
    proto = onnx.helper.make_function(domain, op_type, inputs, outputs, body.nodes, imports, attributes=attributes)
    return b.library.add(proto)


def onnx_attributes(config: dict[str, Any]) -> dict[str, Any]:
    """A layer's JSON-able attributes as those of an ONNX node; what ONNX has no type for becomes JSON."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        kinds = {type(v) for v in (value if isinstance(value, list) else [value])}
        if isinstance(value, bool):
            found[key] = int(value)
        elif len(kinds) == 1 and kinds <= {int, float, str}:
            found[key] = value
        elif value is not None:
            found[key] = json.dumps(value)
    return found
