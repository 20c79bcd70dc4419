"""ONNX files, read with suspicion: from bytes to nodes, tensors and shapes, or ``ModelFileError``.

What the package ``onnx`` checks, converts and infers works on a light copy of the model, in which large tensors are
inputs: a network of half a gigabyte is not copied six times, and a small file cannot ask for much memory.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from cnnext.errors import ModelFileError, message
from cnnext.graph.memory import MAX_ELEMENTS
from cnnext.onnx.wire import check_cost, without_weights
from cnnext.stored import Stored, StoredFile, Tensor

__all__ = ["Contents", "OnnxLimits", "read"]

TARGET_VERSION = 21         # models of older operator sets are converted to this one
# Operators whose versions from this one to the target's only added element types, or attributes with the old meaning as
# default (https://github.com/onnx/onnx/blob/main/docs/Changelog.md).
_TYPES_ONLY = frozenset(("Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Transpose", "Unsqueeze"))
_TYPES_ONLY_SINCE = 13
_LIGHT_ELEMENTS = 1024      # tensors up to this size stay in the light copy: shape operands and scalars
_READ_AT_ONCE_BYTES = 1 << 16   # tensors up to this size are not left in the file
_MAX_CALLS = 50             # of functions inside of each other
_MAX_CONTENTS = 1 << 16     # elements of one value that shape inference carries along
_UNKNOWN_CONTENTS = 32      # of a shape, for example
_MAX_EQUATION = 1000        # characters
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class OnnxLimits:
    """What an ONNX file may ask for; a file that asks for more is refused.

    Parameters
    ----------
    max_bytes : int
        Of the file; protobuf itself ends at 2 GiB.
    max_nodes, max_tensors : int
        With those of subgraphs; the nodes of a function count as often as it is called.
    max_rank : int
        Of tensors and of the shapes that the model declares or shape inference finds.
    max_external_bytes : int
        Of all tensors that lie in other files.
    max_memory : int, optional
        What reading may take, as far as the structure of the file tells; by default 64 MB, or eight times the file.
    """

    max_bytes: int = 2**31 - 1
    max_nodes: int = 200_000
    max_tensors: int = 200_000
    max_rank: int = 32
    max_external_bytes: int = 64 << 30
    max_memory: int | None = None

    def memory(self, n_bytes: int) -> int:
        """What reading a file of ``n_bytes`` may take."""
        return max(64 << 20, 8 * n_bytes) if self.max_memory is None else self.max_memory


@dataclass
class Contents:
    """What an ONNX model says, free of large tensors.

    Attributes
    ----------
    model : onnx.ModelProto
        The light copy: converted, without local functions; ``Constant`` nodes are initializers.
    tensors : dict of str to ndarray or Stored
        All initializers and constants by name.
    types : dict of str to (dtype, shape or None)
        Of every value whose type is known; an extent that is not is None.
    metadata : dict of str to str
    """

    model: Any
    tensors: dict[str, Tensor]
    types: dict[str, tuple[np.dtype, tuple[int | None, ...] | None]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def require_onnx() -> Any:
    """The package ``onnx``.

    Raises
    ------
    ImportError
        With the line to type.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX models need the package onnx. Type: pip install 'cnnext[onnx]'") from error
    return onnx


def read(source: Any, external_data: bool = False, limits: OnnxLimits | None = None, stay: bool = False) -> Contents:
    """Read and check a model.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    external_data : bool
        Allow tensors in other files, which must be plain files in the model's own folder.
    limits : OnnxLimits, optional
    stay : bool
        Leave large tensors in the file, as ``Stored``, where they can be.

    Raises
    ------
    ModelFileError
        If the model cannot be read, breaks the rules of ONNX or goes beyond the limits.
    """
    onnx, limits = require_onnx(), limits or OnnxLimits()
    model, weights = _parse(onnx, source, limits)
    folder = os.path.dirname(os.path.abspath(os.fspath(source))) if isinstance(source, (str, os.PathLike)) else None
    try:
        _check_extent(model, limits)
        tensors = _take_tensors(onnx, model, limits, folder if external_data else None, weights, stay)
        light = _checked(onnx, model)
        version = _version(light)
        light = _inlined(onnx, light)
        _check_trusted(light.graph)
        if version < TARGET_VERSION:
            light = _converted(onnx, light)
        _constants_to_initializers(onnx, light.graph)   # those of functions, and those that the converter made
        tensors.update((p.name, _array(onnx, p, limits, _External(None, limits))) for p in light.graph.initializer)
        return Contents(light, tensors, _types(onnx, light, tensors, limits), {p.key: p.value for p in model.metadata_props})
    except ModelFileError:
        raise
    except Exception as error:  # of any kind: the file decides what reaches the package onnx
        raise ModelFileError(f"the ONNX model cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__


@dataclass(frozen=True)
class _Weights:
    """Where the data of initializers is that the parsed model lacks, by their index."""

    file: StoredFile | None = None
    places: dict[int, tuple[int, int]] = field(default_factory=dict)


def _parse(onnx: Any, source: Any, limits: OnnxLimits) -> tuple[Any, _Weights]:
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        return model, _Weights()
    file = StoredFile(source, "the ONNX model") if isinstance(source, bytes) else _open(source)
    if file.size > limits.max_bytes:
        raise ModelFileError(f"the model holds {file.size:,} bytes, the limit is {limits.max_bytes:,} (limits.max_bytes).")
    data, places = without_weights(onnx, file)
    check_cost(onnx, data, limits.memory(file.size))
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelFileError(f"not an ONNX model, or a damaged one: {_first_line(error)}") from error
    if not model.HasField("graph"):
        raise ModelFileError("not an ONNX model, or a damaged one: it holds no graph.")
    return model, _Weights(file, places)


def _open(path: Any) -> StoredFile:
    try:
        # Not waiting for what is no file: a pipe that nobody writes to.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ModelFileError("it must be a plain file.")
        return StoredFile(handle, f"ONNX file {os.fspath(path)!r}")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFileError(f"the file cannot be read: {error.strerror}.") from error


def _check_extent(model: Any, limits: OnnxLimits) -> None:
    if not 1 <= model.ir_version:
        raise ModelFileError(message("model", "ir_version", "be at least 1", model.ir_version))
    n_nodes = _n_nodes(model, limits)
    if n_nodes > limits.max_nodes:
        rule = f"be at most {limits.max_nodes} (limits.max_nodes), with those of the functions called"
        raise ModelFileError(message("model", "nodes", rule, n_nodes))
    graphs = [model.graph, *_subgraphs(model.graph.node)]
    n_tensors = sum(len(graph.initializer) for graph in graphs)
    if n_tensors > limits.max_tensors:
        raise ModelFileError(message("model", "tensors", f"be at most {limits.max_tensors} (limits.max_tensors)", n_tensors))
    if any(len(graph.sparse_initializer) for graph in graphs):
        raise ModelFileError("sparse initializers are not supported.")


def _n_nodes(model: Any, limits: OnnxLimits) -> int:
    """Nodes of the model, those of a function as often as it is called: ten functions that call the next ten times each are
    ten thousand million nodes.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    known: dict[tuple[str, str, str], int] = {}

    def count(nodes: Iterable[Any], callers: tuple[tuple[str, str, str], ...]) -> int:
        total = 0
        for node in (*nodes, *(inner for graph in _subgraphs(nodes) for inner in graph.node)):
            key = (node.domain, node.op_type, node.overload)
            if key in callers:
                raise ModelFileError(f"function {node.op_type!r} calls itself.")
            if key in functions and key not in known:
                if len(callers) >= _MAX_CALLS:
                    raise ModelFileError(f"function {node.op_type!r}: calls are nested more than {_MAX_CALLS} deep.")
                known[key] = count(functions[key].node, (*callers, key))
            total = min(total + 1 + known.get(key, 0), limits.max_nodes + 1)
        return total

    return count(model.graph.node, ()) + sum(len(f.node) for f in model.functions)


def _subgraphs(nodes: Iterable[Any]) -> list[Any]:
    """The graphs inside of nodes, and those inside of them."""
    found = [a.g for node in nodes for a in node.attribute if a.HasField("g")]
    found += [g for node in nodes for a in node.attribute for g in a.graphs]
    for graph in found:     # grows while it is walked
        found += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
        found += [g for node in graph.node for a in node.attribute for g in a.graphs]
    return found


# What the package onnx believes without asking, and takes memory or time for without end.


def _check_trusted(graph: Any) -> None:
    for node in (n for g in (graph, *_subgraphs(graph.node)) for n in g.node):
        if node.op_type == "Split" and any(a.name == "num_outputs" and a.i != len(node.output) for a in node.attribute):
            raise ModelFileError(f"Split {node.name!r}: `num_outputs` must be the number of outputs, {len(node.output)}.")
        for text in (a.s for a in node.attribute if node.op_type == "Einsum" and a.name == "equation"):
            if not _is_equation(text):
                raise ModelFileError(message(f"Einsum {node.name!r}", "equation",
                                             "be terms of letters, each with one ... at most", text))


def _is_equation(text: bytes) -> bool:
    terms = text.replace(b"->", b",").split(b",")
    return len(text) <= _MAX_EQUATION and text.count(b"->") <= 1 and all(
        term.count(b"...") <= 1 and re.fullmatch(rb"[A-Za-z ]*", term.replace(b"...", b"", 1)) for term in terms)


def _contents_stay_small(graph: Any) -> bool:
    """Whether the contents that shape inference carries along are small: a chain of Concat doubles them in each node."""
    sizes = {t.name: prod(t.dims) for t in graph.initializer}
    for g in (graph, *_subgraphs(graph.node)):
        for node in g.node:
            read = [sizes.get(name, _UNKNOWN_CONTENTS) for name in node.input if name] or [_UNKNOWN_CONTENTS]
            made = sum(read) if node.op_type == "Concat" else max(read)
            if made > _MAX_CONTENTS:
                return False
            sizes.update((name, made) for name in node.output if name)
    return True


# Tensors


def _take_tensors(onnx: Any, model: Any, limits: OnnxLimits, folder: str | None, weights: _Weights,
                  stay: bool) -> dict[str, Tensor]:
    """All tensors by name; in the model, large ones become inputs and ``Constant`` nodes initializers."""
    graph = model.graph
    _constants_to_initializers(onnx, graph)
    tensors: dict[str, Tensor] = {}
    reader = _External(folder, limits)
    left: set[str] = set()      # in the file
    for i, proto in enumerate(graph.initializer):
        if not proto.name:
            raise ModelFileError("an initializer has no name.")
        if proto.name in tensors:
            raise ModelFileError(f"two initializers are called {proto.name!r}.")
        found = _left_in_file(onnx, proto, limits, weights, i) if i in weights.places else None
        if found is not None:
            left.add(proto.name)
            stays = stay and found.nbytes > _READ_AT_ONCE_BYTES
        tensors[proto.name] = _array(onnx, proto, limits, reader) if found is None else found if stays else found.read()
    for proto in _inner_tensors(model):
        _array(onnx, proto, limits, reader, keep=True)
    declared = {value.name for value in graph.input}
    large = [p for p in graph.initializer if p.name in left or tensors[p.name].size > _LIGHT_ELEMENTS]
    large_names = {proto.name for proto in large}
    kept = [proto for proto in graph.initializer if proto.name not in large_names]
    inputs = [onnx.helper.make_tensor_value_info(p.name, p.data_type, list(p.dims)) for p in large if p.name not in declared]
    small = []
    for proto in kept:
        copy = onnx.TensorProto()
        copy.CopyFrom(proto)
        small.append(copy)
    del graph.initializer[:]
    graph.initializer.extend(small)
    graph.input.extend(inputs)
    return tensors


def _left_in_file(onnx: Any, proto: Any, limits: OnnxLimits, weights: _Weights, index: int) -> Stored | None:
    """A tensor whose data is not in the model; None after putting it there, for ``_array`` with its rules to read it."""
    assert weights.file is not None
    offset, n_bytes = weights.places[index]
    dims, dtype = list(proto.dims), _plain_dtype(onnx, proto)
    fits = len(dims) <= limits.max_rank and all(n >= 0 for n in dims) and not proto.HasField("segment")
    elsewhere = any(len(getattr(proto, name)) for name in _DATA_FIELDS) or proto.data_location == onnx.TensorProto.EXTERNAL
    if dtype is None or not fits or elsewhere or n_bytes != prod(dims) * dtype.itemsize:
        proto.raw_data = bytes(weights.file.read(offset, n_bytes))
        return None
    return Stored(weights.file, offset, tuple(dims), dtype)


def _inner_tensors(model: Any) -> Iterator[Any]:
    """Tensors in attributes, and initializers of subgraphs."""
    graphs = [model.graph, *model.functions]
    inner = [s for g in graphs for s in _subgraphs(g.node)]
    for attribute in (a for g in (*graphs, *inner) for node in g.node for a in node.attribute):
        yield from ((attribute.t,) if attribute.HasField("t") else ())
        yield from attribute.tensors
    yield from (proto for g in inner for proto in g.initializer)


def _constants_to_initializers(onnx: Any, graph: Any) -> None:
    constants = [node for node in graph.node if node.op_type == "Constant" and node.domain in ("", "ai.onnx")]
    if not constants:
        return
    made = []
    for node in constants:
        if len(node.output) != 1 or len(node.attribute) != 1:
            raise ModelFileError(f"node {node.name!r}: Constant must have one attribute and one output.")
        attribute = node.attribute[0]
        if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.name = node.output[0]
            made.append(attribute.t)
        elif attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
            value = onnx.helper.get_attribute_value(attribute)
            kind = np.int64 if "int" in attribute.name else np.float32
            made.append(onnx.numpy_helper.from_array(np.asarray(value, kind), node.output[0]))
        else:
            raise ModelFileError(f"node {node.name!r}: Constant with {attribute.name!r} is not supported.")
    graph.initializer.extend(made)
    rest = [node for node in graph.node if not (node.op_type == "Constant" and node.domain in ("", "ai.onnx"))]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in rest]
    del graph.node[:]
    graph.node.extend(kept)


def _array(onnx: Any, proto: Any, limits: OnnxLimits, external: _External, keep: bool = False) -> np.ndarray:
    """A tensor, checked; what lies in another file is read, and large data are taken out of the model, or kept there."""
    where = f"tensor {proto.name!r}"
    dims = list(proto.dims)
    if len(dims) > limits.max_rank or any(n < 0 for n in dims):
        raise ModelFileError(message(where, "dims", f"be at most {limits.max_rank} extents of at least 0", dims))
    if proto.HasField("segment"):
        raise ModelFileError(f"{where}: segments are not supported.")
    # Reading raw_data copies it, so it is read once.
    raw = proto.raw_data if proto.HasField("raw_data") else b""
    filled = [name for name in _DATA_FIELDS if len(raw if name == "raw_data" else getattr(proto, name))]
    if len(filled) > 1:
        raise ModelFileError(f"{where} holds its data twice, in {' and '.join(filled)}: readers may disagree.")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        if filled:
            raise ModelFileError(f"{where} holds data and says that it lies in another file.")
        proto.raw_data = external.read(where, {e.key: e.value for e in proto.external_data}, _n_bytes(onnx, proto))
        proto.data_location = onnx.TensorProto.DEFAULT
        del proto.external_data[:]
        return _array(onnx, proto, limits, external, keep)
    n_bytes = len(raw) if raw or not filled else 8 * len(getattr(proto, filled[0]))
    if prod(dims) > 8 * n_bytes:    # the smallest element takes 2 bits
        raise ModelFileError(message(where, "dims", f"fit its {n_bytes} bytes", dims))
    dtype = _plain_dtype(onnx, proto)
    if dtype is not None and raw:
        if len(raw) != prod(dims) * dtype.itemsize:
            raise ModelFileError(message(where, "dims", f"fit its {n_bytes} bytes", dims))
        if prod(dims) > _LIGHT_ELEMENTS and not keep:
            proto.ClearField("raw_data")    # so that a large model is not in memory twice
        return np.frombuffer(raw, dtype).reshape(dims)
    try:
        array = onnx.numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{where}: {_first_line(error)}") from error
    if array.dtype.kind == "O":
        raise ModelFileError(f"{where}: texts are not supported.")
    return array


def _plain_dtype(onnx: Any, proto: Any) -> np.dtype | None:
    """The element type if NumPy reads it from little-endian bytes as they are."""
    if sys.byteorder != "little" or proto.data_type not in onnx.helper.get_all_tensor_dtypes():
        return None
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
    return dtype if dtype.kind in "fiu" and dtype.isbuiltin == 1 else None


def _n_bytes(onnx: Any, proto: Any) -> int:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    size = prod(proto.dims)
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}.get(dtype.name, 8 * dtype.itemsize)
    return -(-size * bits // 8)


class _External:
    """Reads tensors from plain files in one folder; refuses every other place."""

    def __init__(self, folder: str | None, limits: OnnxLimits):
        self.folder = folder
        self.left = limits.max_external_bytes

    def read(self, where: str, entry: dict[str, str], n_bytes: int) -> bytes:
        """``n_bytes`` from the place that the model's entry names."""
        location = entry.get("location", "")
        if self.folder is None:
            raise ModelFileError(f"{where} lies in another file, {location!r}. Load the model by its path, with "
                                 "external_data=True, if you trust it.")
        if not location or location in (".", "..") or any(c in location for c in "/\\\0"):
            raise ModelFileError(message(where, "location", "be the name of a file in the model's folder", location))
        offset, length = (self._number(where, entry, key, default) for key, default in (("offset", 0), ("length", n_bytes)))
        if length != n_bytes:
            raise ModelFileError(message(where, "length", f"be {n_bytes} bytes, as its shape says", length))
        self.left -= n_bytes
        if self.left < 0:
            raise ModelFileError(f"{where}: the model's external tensors are beyond the limit.")
        return self._bytes(where, location, offset, n_bytes)

    @staticmethod
    def _number(where: str, entry: dict[str, str], key: str, default: int) -> int:
        text = entry.get(key, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise ModelFileError(message(where, key, "be a whole number of bytes", text))
        return int(text)

    def _bytes(self, where: str, location: str, offset: int, n_bytes: int) -> bytes:
        assert self.folder is not None
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # Relative to the opened folder and without following a link: what is checked is what is read.
                handle = os.open(location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ModelFileError(f"{where}: the file {location!r} cannot be opened: {error.strerror}.") from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(handle)
            raise ModelFileError(f"{where}: {location!r} must be a plain file without other names.")
        with os.fdopen(handle, "rb") as file:
            if offset + n_bytes > status.st_size:
                raise ModelFileError(f"{where}: {location!r} holds {status.st_size} bytes, {offset} + {n_bytes} are wanted.")
            file.seek(offset)
            data = file.read(n_bytes)
        if len(data) != n_bytes:
            raise ModelFileError(f"{where}: {location!r} changed while it was read.")
        return data


# What the package onnx does


def _version(model: Any) -> int:
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(versions) > 1:
        raise ModelFileError(message("model", "opset_import", "name each domain once", versions))
    return versions[0] if versions else TARGET_VERSION


def _checked(onnx: Any, model: Any) -> Any:
    # An initializer is a graph input as well in IR 3; since IR 4 it need not be, and converter and checker agree on that.
    model.ir_version = max(model.ir_version, 10)
    _drop_old_inputs(model)
    outputs = [(value, type(value).FromString(value.SerializeToString())) for value in model.graph.output]
    for value, _ in outputs:
        _declare(onnx, value)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelFileError(f"the model breaks the rules of ONNX: {_first_line(error)}") from error
    for value, original in outputs:
        value.CopyFrom(original)
    return model


def _declare(onnx: Any, value: Any) -> None:
    """Give an output a type and a rank for the checker, which insists on both; engines infer them."""
    if value.type.WhichOneof("value") not in (None, "tensor_type"):
        return
    tensor = value.type.tensor_type
    tensor.elem_type = tensor.elem_type or onnx.TensorProto.FLOAT
    tensor.shape.SetInParent()


def _drop_old_inputs(model: Any) -> None:
    names = {proto.name for proto in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in names]
    if len(kept) != len(model.graph.input):
        copies = [type(v).FromString(v.SerializeToString()) for v in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)


def _inlined(onnx: Any, model: Any) -> Any:
    if not model.functions:
        return model
    inliner = import_module("onnx.inliner")
    return inliner.inline_local_functions(model)


def _converted(onnx: Any, model: Any) -> Any:
    """The model in newer terms; the model as it is where the converter does not know the way."""
    if _means_the_same(onnx, model):
        next(o for o in model.opset_import if o.domain in ("", "ai.onnx")).version = TARGET_VERSION
        return model
    converter = import_module("onnx.version_converter")
    try:
        converted = converter.convert_version(model, TARGET_VERSION)
    except Exception:   # of many kinds, also errors of its checker and of its shape inference
        return model
    if _version(model) < 11:
        _resize_as_before(onnx, converted.graph)
    return converted


def _means_the_same(onnx: Any, model: Any) -> bool:
    """Whether no operator of the model has changed since its version, so that the slow converter is not needed."""
    version = _version(model)
    kinds = {node.op_type for g in (model.graph, *_subgraphs(model.graph.node)) for node in g.node
             if node.domain in ("", "ai.onnx")}
    try:
        return version >= _TYPES_ONLY_SINCE and any(o.domain in ("", "ai.onnx") for o in model.opset_import) and all(
            kind in _TYPES_ONLY or onnx.defs.get_schema(kind, version, "").since_version
            == onnx.defs.get_schema(kind, TARGET_VERSION, "").since_version for kind in kinds)
    except onnx.defs.SchemaError:
        return False


def _resize_as_before(onnx: Any, graph: Any) -> None:
    """Before version 11, Upsample and Resize knew one rule for coordinates, which is not today's default."""
    for node in graph.node:
        if node.op_type == "Resize" and node.domain in ("", "ai.onnx"):
            said = {attribute.name for attribute in node.attribute}
            for key, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                if key not in said:
                    node.attribute.append(onnx.helper.make_attribute(key, value))


def _types(onnx: Any, model: Any, tensors: dict[str, Tensor],
           limits: OnnxLimits) -> dict[str, tuple[np.dtype, tuple[int | None, ...] | None]]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False,
                                                     data_prop=_contents_stay_small(model.graph))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelFileError(f"the shapes of the model contradict each other: {_first_line(error)}") from error
    types: dict[str, tuple[np.dtype, tuple[int | None, ...] | None]] = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        known = value_type(onnx, value)
        if known is not None:
            _check_shape(value.name, known[1] or (), limits)
            types[value.name] = known
    types.update({name: (array.dtype, array.shape) for name, array in tensors.items()})
    return types


def _check_shape(name: str, shape: tuple[int | None, ...], limits: OnnxLimits) -> None:
    if len(shape) > limits.max_rank or prod(n for n in shape if n is not None) > MAX_ELEMENTS:
        raise ModelFileError(message(repr(name), "shape", f"have at most {limits.max_rank} axes and {MAX_ELEMENTS} elements",
                                     shape))


def value_type(onnx: Any, value: Any) -> tuple[np.dtype, tuple[int | None, ...] | None] | None:
    """Dtype and shape of a tensor that the model declares, or None for what is no tensor or has no known type."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
        return None
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        raise ModelFileError(f"{value.name!r}: unknown element type {tensor.elem_type}.") from None
    if dtype.kind == "O":
        raise ModelFileError(f"{value.name!r} holds texts, which are not supported.")
    if not tensor.HasField("shape"):
        return dtype, None
    return dtype, tuple(_extents(tensor.shape.dim))


def _extents(dims: Iterable[Any]) -> Iterator[int | None]:
    for dim in dims:
        # Some exporters write -1 for an open extent.
        yield dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
