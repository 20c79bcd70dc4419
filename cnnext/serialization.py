"""Models to and from the native file: the graph as a JSON document, the parameters as tensors beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext import modelfile
from cnnext.collector import paused_collector
from cnnext.errors import ModelFileError, PluginError, message
from cnnext.graph.graph import FLOAT32, Shape, Value, constant
from cnnext.layers.attributes import as_int
from cnnext.layers.input import Input
from cnnext.layers.layer import Layer
from cnnext.layers.missing import MissingLayer
from cnnext.model import Model
from cnnext.modelfile import Limits
from cnnext.plugins import layer_class, provider
from cnnext.stored import Tensor, in_memory

if TYPE_CHECKING:
    from cnnext.onnx.files import OnnxLimits

_CONSTANTS = "$constants"   # owner of the tensors of the graph's constants; no layer may be called so


def describe(model: Model) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The model's JSON document and its tensors."""
    graph = model.graph
    layers = model.layers
    index = {layer: i for i, layer in enumerate(layers)}
    position: dict[Value, list[Any]] = {value: ["input", i] for i, value in enumerate(graph.inputs)}
    constants = list(dict.fromkeys(
        v for v in (*(v for node in graph.nodes for v in node.inputs), *graph.outputs) if v.data is not None))
    position.update({value: ["constant", i] for i, value in enumerate(constants)})
    nodes = []
    for i, node in enumerate(graph.nodes):
        item: dict[str, Any] = {"layer": index[node.layer], "inputs": [position[v] for v in node.inputs]}
        if not node.layer.type_name.startswith("cnnext/"):  # so that the model can be looked at without the plugin
            item["shapes"] = [list(v.shape) for v in node.outputs]
        nodes.append(item)
        position.update({value: [i, j] for j, value in enumerate(node.outputs)})
    document: dict[str, Any] = {
        "name": model.name,
        "inputs": [_describe_input(v) for v in graph.inputs],
        "layers": [_describe_layer(x) for x in layers],
        "nodes": nodes,
        "outputs": [position[v] for v in graph.outputs],
    }
    tensors = {f"{layer.name}/{key}": p.peek() for layer in layers for key, p in layer.weights.items()}
    if constants:
        tensors.update({f"{_CONSTANTS}/{i}": np.asarray(v.data) for i, v in enumerate(constants)})
    if not graph.shares_batch:
        document["shares_batch"] = False
    if model.metadata:
        document["metadata"] = dict(model.metadata)
    return document, tensors


def _describe_input(value: Value) -> dict[str, Any]:
    if value.dtype == FLOAT32 and value.shape[:1] == (None,):
        return {"name": value.name, "shape": list(value.shape[1:])}
    return {"name": value.name, "extents": list(value.shape), "dtype": value.dtype.name}


def _describe_layer(layer: Layer) -> dict[str, Any]:
    if not layer.type_name:
        raise ValueError(message(layer.where, "type_name", "be set (vendor/Layer@version) for a model file to name it",
                                 layer.type_name))
    item: dict[str, Any] = {"type": layer.type_name, "name": layer.name, "attributes": layer.config()}
    if not layer.trainable:
        item["trainable"] = False
    if isinstance(layer, MissingLayer):
        item["plugin"] = layer.plugin
    elif not layer.type_name.startswith("cnnext/") and (owner := provider(type(layer))) is not None:
        item["plugin"] = {"distribution": owner.distribution, "version": owner.distribution_version}
    return item


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model file; a crash while writing leaves the previous file whole."""
    document, tensors = describe(model)
    modelfile.save(path, tensors, document)


def to_bytes(model: Model) -> bytes:
    """The model file as bytes."""
    document, tensors = describe(model)
    return modelfile.to_bytes(tensors, document)


def load(source: Any, num_threads: int | None = None, external_data: bool = False,
         limits: Limits | OnnxLimits | None = None) -> Model:
    """Read a model file, native (``.safetensors``) or ONNX.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    num_threads : int, optional
    external_data : bool
        Allow an ONNX model, given by its path, to have tensors in other files of its own folder.
    limits : cnnext.modelfile.Limits or cnnext.onnx.OnnxLimits, optional
        What a native file or an ONNX model may ask for, where the defaults refuse one that you trust.

    Raises
    ------
    ModelFileError
        If the file is damaged, too large for the limits, or names layers or operators that nothing installed has.

    Notes
    -----
    A layer whose plugin is missing or broken becomes a ``MissingLayer``: the model has its summary and its weights, and
    says what to install when it is run.
    """
    return read_model(source, num_threads, external_data, limits, stay=False)


def read_model(source: Any, num_threads: int | None, external_data: bool, limits: Limits | OnnxLimits | None,
               stay: bool) -> Model:
    """As ``load``; with ``stay``, large weights stay in the file, which is kept open, until they are wanted."""
    with paused_collector():
        return _read(source, num_threads, external_data, limits, stay)


def _read(source: Any, num_threads: int | None, external_data: bool, limits: Limits | OnnxLimits | None,
          stay: bool) -> Model:
    if is_onnx(source):
        from cnnext.onnx.importer import load as load_onnx

        return load_onnx(source, num_threads, external_data, _checked_limits(limits, "OnnxLimits"), stay)
    tensors, document = modelfile.load(source, limits=_checked_limits(limits, "Limits") or Limits(), stay=stay)
    where = "model file" if isinstance(source, bytes) else f"model file {os.fspath(source)!r}"
    try:
        return _rebuild(document, tensors, num_threads)
    except ModelFileError as error:
        raise ModelFileError(f"{where}: {error}") from None
    except PluginError as error:
        raise ModelFileError(f"{where}: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError,
            RecursionError) as error:
        raise ModelFileError(f"{where}: the graph cannot be rebuilt: {error}") from error


def _checked_limits(limits: Any, kind: str) -> Any:
    if limits is not None and type(limits).__name__ != kind:
        home = "cnnext.onnx" if kind == "OnnxLimits" else "cnnext.modelfile"
        raise TypeError(message("load", "limits", f"be {home}.{kind} for such a file", limits))
    return limits


def is_onnx(source: Any) -> bool:
    """Whether a model is an ONNX one: by the suffix of its path, or as bytes that do not begin as a native file does.

    A native file begins with the length of its header, whose last bytes are zero; an ONNX model with the key of a field.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source).endswith((".onnx", ".ONNX"))
    if isinstance(source, bytes):
        return source[:1] in (b"\x08", b"\x12", b"\x3a", b"\x42") and source[4:8] != bytes(4)
    return type(source).__module__.startswith("onnx")


def _rebuild(document: Mapping[str, Any], tensors: dict[str, Tensor], num_threads: int | None) -> Model:
    inputs = [_input(item) for item in document["inputs"]]
    layers = [_layer(item) for item in document["layers"]]
    constants = _take_constants(tensors)
    _hand_out_tensors(layers, tensors)
    made: list[list[Value]] = []

    def value(reference: Any) -> Value:
        origin, i = reference
        i = _index(i)
        if origin == "constant":
            return constants[i]
        return inputs[i] if origin == "input" else made[_index(origin)][i]

    for item in document["nodes"]:
        layer = layers[_index(item["layer"])]
        sources = [value(r) for r in item["inputs"]]
        if isinstance(layer, MissingLayer):
            layer.record([v.shape for v in sources], _shapes(layer, item.get("shapes")))
        outputs = layer(sources)
        made.append([outputs] if isinstance(outputs, Value) else list(outputs))
    model = Model(inputs, [value(r) for r in document["outputs"]], _text(document["name"]), num_threads)
    model.graph.shares_batch = document.get("shares_batch", True) is not False
    model.metadata = {_text(key): _text(text) for key, text in document.get("metadata", {}).items()}
    return model


def _input(item: Mapping[str, Any]) -> Value:
    if "extents" not in item:
        return Input(item["shape"], name=_text(item["name"]))
    shape = tuple(None if n is None else as_int("input", "extents", n, minimum=0) for n in item["extents"])
    return Value(shape, np.dtype(_text(item["dtype"])), _text(item["name"]))


def _take_constants(tensors: dict[str, Tensor]) -> list[Value]:
    """The graph's constants, taken out of the file's tensors."""
    names = [name for name in tensors if name.rpartition("/")[0] == _CONSTANTS]
    return [constant(in_memory(tensors.pop(f"{_CONSTANTS}/{i}")), f"constant_{i}") for i in range(len(names))]


def _hand_out_tensors(layers: list[Layer], tensors: dict[str, Tensor]) -> None:
    # Layers of a file take their parameters from it and never draw new ones, whatever sizes their attributes claim.
    owners = {layer.name: layer for layer in layers}
    if len(owners) != len(layers):
        raise ModelFileError("two layers have one name.")
    stored: dict[str, dict[str, Tensor]] = {name: {} for name in owners}
    for name, array in tensors.items():
        owner, _, key = name.rpartition("/")
        if owner not in stored:
            raise ModelFileError(f"tensor {name!r} belongs to no layer.")
        if array.dtype != FLOAT32:
            raise ModelFileError(message(f"tensor {name!r}", "dtype", "be float32", str(array.dtype)))
        stored[owner][key] = array
    for layer in layers:
        layer.stored_weights = stored[layer.name]


def _layer(item: Mapping[str, Any]) -> Layer:
    layer = _new_layer(item)
    layer.trainable = item.get("trainable", True)
    return layer


def _new_layer(item: Mapping[str, Any]) -> Layer:
    type_name, name = _text(item["type"]), _text(item["name"])
    try:
        cls = layer_class(type_name)
    except PluginError as error:
        if "/" not in type_name or type_name.startswith("cnnext/"):
            raise
        return MissingLayer(type_name, item["attributes"], item.get("plugin", {}), str(error), name)
    return cls.from_config({key: from_json(v) for key, v in item["attributes"].items()}, name)


def _shapes(layer: MissingLayer, shapes: Any) -> list[Shape]:
    if not isinstance(shapes, list) or not shapes:
        raise PluginError(layer.error_text)
    for shape in shapes:
        if not isinstance(shape, list) or not all(n is None or type(n) is int and 0 <= n < 2**31 for n in shape):
            raise ModelFileError(message(layer.where, "shapes", "be lists of whole numbers or null", shapes))
    return [tuple(shape) for shape in shapes]


def from_json(value: Any) -> Any:
    """An attribute's value from what ``Layer.config`` made of it."""
    if isinstance(value, dict):
        return layer_class(_text(value["type"]))(**{k: from_json(v) for k, v in value["attributes"].items()})
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    return {"inf": float("inf"), "-inf": -float("inf")}.get(value, value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ModelFileError(f"a name must be text. Received {value!r}.")
    return value


def _index(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ModelFileError(f"a reference must be a whole number of at least 0. Received {value!r}.")
    return value
