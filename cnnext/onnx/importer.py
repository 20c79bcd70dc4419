"""From an ONNX model to a ``Model``: one ``OnnxOperator`` for each node, its weights as parameters, names kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnext.errors import ModelFileError, PluginError, message
from cnnext.graph.graph import FLOAT32, Graph, Parameter, Value, constant
from cnnext.model import Model
from cnnext.onnx.files import Contents, OnnxLimits, read, require_onnx
from cnnext.onnx.layer import OnnxOperator
from cnnext.onnx.operator import Operator
from cnnext.onnx.subgraphs import InnerNode, Subgraph
from cnnext.onnx.support import check_supported, unsupported
from cnnext.stored import Stored, Tensor, in_memory

__all__ = ["Description", "describe", "load"]

# Inputs that are weights where they are known: trained, and not trained.
_TRAINED: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "PRelu": (1,),
    "Add": (0, 1), "Mul": (0, 1),
    "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2), "RMSNormalization": (1,),
}
_STATE: dict[str, tuple[int, ...]] = {"BatchNormalization": (3, 4)}
# Sums and products with a scalar are part of a formula, not weights.
_SMALLEST_WEIGHT = {"Add": 2, "Mul": 2}


def load(source: Any, num_threads: int | None = None, external_data: bool = False,
         limits: OnnxLimits | None = None, stay: bool = False) -> Model:
    """Read an ONNX model.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    num_threads : int, optional
    external_data : bool
        Allow tensors in other files, which must be plain files in the model's own folder.
    limits : OnnxLimits, optional
    stay : bool
        Leave large weights in the file, which stays open, until they are wanted.

    Returns
    -------
    Model
        Inputs and outputs have the names, shapes and types of the ONNX model. Each node is a layer, called like the node,
        or like its first output where it has no name.

    Raises
    ------
    ModelFileError
        If the model cannot be read, or has operators that nothing installed computes; all of them are named.
    ImportError
        Without the package ``onnx``.
    """
    where = f"ONNX file {os.fspath(source)!r}" if isinstance(source, (str, os.PathLike)) else "ONNX model"
    try:
        return _Importer(read(source, external_data, limits, stay)).model(num_threads)
    except ModelFileError as error:
        raise ModelFileError(f"{where}: {error}") from error
    except (ImportError, OSError, PluginError):
        raise
    except Exception as error:  # of any kind: the file decides what comes here
        raise ModelFileError(f"{where}: the graph cannot be built: {type(error).__name__}: {error}") from error


class _Importer:
    """What is known of a model's values while its graph is built."""

    def __init__(self, contents: Contents):
        self.onnx = require_onnx()
        self.contents = contents
        self.proto = contents.model.graph
        self.versions = {o.domain if o.domain != "ai.onnx" else "": o.version for o in contents.model.opset_import}
        self.values: dict[str, Value] = {}
        self.parameters: dict[str, Parameter] = {}
        self.names: set[str] = set()

    def model(self, num_threads: int | None) -> Model:
        inputs = [self._input(v) for v in self.proto.input if v.name not in self.contents.tensors]
        graph = Graph(inputs, [])
        graph.shares_batch = False
        operators = [self._operator(node) for node in self.proto.node]
        named = ((op, node.name or next(iter(node.output), "")) for op, node in zip(operators, self.proto.node, strict=True))
        check_supported(self._operators(named))
        for op, node in zip(operators, self.proto.node, strict=True):
            self._append(graph, op, node)
        outputs = [self._output(v.name) for v in self.proto.output]
        model = Model(inputs, outputs, self.proto.name or "onnx", num_threads)
        model.graph.shares_batch = False
        model.metadata = dict(self.contents.metadata)
        return model

    def _input(self, proto: Any) -> Value:
        if not proto.name or proto.name in self.values:
            raise ModelFileError(f"two inputs are called {proto.name!r}.")
        if proto.name not in self.contents.types:
            raise ModelFileError(f"input {proto.name!r} is no tensor of a known type; others are not supported.")
        dtype, shape = self.contents.types[proto.name]
        if shape is None:
            raise ModelFileError(f"input {proto.name!r} has no known rank.")
        value = self.values[proto.name] = Value(shape, dtype, proto.name)
        return value

    def _operator(self, node: Any) -> Operator:
        attributes = {a.name: self._attribute(node, a) for a in node.attribute}
        domain = node.domain if node.domain != "ai.onnx" else ""
        op = Operator(node.op_type, domain, self.versions.get(domain, 1), attributes, tuple(bool(n) for n in node.output))
        if domain == "" and node.op_type in ("If", "Loop"):
            _check_signature(op, node)
        return op

    def _attribute(self, node: Any, proto: Any) -> Any:
        kinds = self.onnx.AttributeProto
        if proto.type == kinds.GRAPH and node.op_type in ("If", "Loop") and node.domain in ("", "ai.onnx"):
            return self._subgraph(proto.g)
        if proto.type in (kinds.GRAPH, kinds.GRAPHS, kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS, kinds.TYPE_PROTO):
            return proto    # named by check_supported
        value = self.onnx.helper.get_attribute_value(proto)
        if proto.type == kinds.TENSOR:
            return self.onnx.numpy_helper.to_array(value)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if proto.type == kinds.STRINGS:
            return [v.decode("utf-8", "replace") for v in value]
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    def _subgraph(self, proto: Any) -> Subgraph:
        """A graph inside of a node; names that it does not make itself are those of the graphs around it."""
        constants = {t.name: self.onnx.numpy_helper.to_array(t) for t in proto.initializer}
        nodes = []
        for node in proto.node:
            op = self._operator(node)
            inner = [a for a in op.attributes.values() if isinstance(a, Subgraph)]
            reads = (*node.input, *dict.fromkeys(name for graph in inner for name in graph.captured))
            nodes.append(InnerNode(op, node.name or node.output[0], reads, tuple(node.output)))
        made = {*constants, *(v.name for v in proto.input), *(name for node in nodes for name in node.outputs)}
        outputs = tuple(v.name for v in proto.output)
        needed = dict.fromkeys((*(name for node in nodes for name in node.inputs), *outputs))
        return Subgraph(tuple(v.name for v in proto.input), outputs, tuple(nodes), constants,
                        tuple(name for name in needed if name and name not in made))

    def _operators(self, operators: Iterable[tuple[Operator, str]]) -> Iterator[tuple[Operator, str]]:
        """The operators and those inside of them."""
        for op, name in operators:
            yield op, name
            for graph in (a for a in op.attributes.values() if isinstance(a, Subgraph)):
                yield from self._operators((node.operator, node.name) for node in graph.nodes)

    def _append(self, graph: Graph, op: Operator, node: Any) -> None:
        trained, state = _TRAINED.get(op.op_type, ()), _STATE.get(op.op_type, ())
        if op.domain:   # of a plugin's layer, all that it stores
            trained, state = tuple(range(len(node.input))), ()
        slots: list[str] = []
        inputs: list[Value] = []
        weights: dict[str, Parameter] = {}
        inner = [a for a in op.attributes.values() if isinstance(a, Subgraph)]
        captured = dict.fromkeys(name for graph in inner for name in graph.captured)
        for i, name in enumerate((*node.input, *captured)):
            array = self.contents.tensors.get(name)
            if not name:
                slots.append("")
            elif array is not None and i in (*trained, *state) and self._is_weight(op, node, array):
                key = _weight_name(name, weights)
                weights[key] = self._parameter(name, array, i in trained)
                slots.append(key)
            else:
                slots.append("*")
                inputs.append(self._value(name, node))
        layer = OnnxOperator(op, slots, [self.contents.types.get(n) for n in node.output if n],
                             self._layer_name(node), [key for key, p in weights.items() if not p.trainable])
        layer.weights = weights
        made = graph.apply(layer, *inputs, weights=layer.weight_values())
        for name, value in zip([n for n in node.output if n], made, strict=True):
            if name in self.values:
                raise ModelFileError(f"two nodes make {name!r}.")
            value.name = name
            self.values[name] = value

    def _is_weight(self, op: Operator, node: Any, array: Tensor) -> bool:
        only = all(name in self.contents.tensors for name in node.input if name)
        return array.dtype == FLOAT32 and not only and array.size >= _SMALLEST_WEIGHT.get(op.op_type, 1)

    def _parameter(self, name: str, array: Tensor, trainable: bool) -> Parameter:
        if name not in self.parameters:
            own = array if isinstance(array, Stored) or array.flags.writeable else array.copy()
            self.parameters[name] = Parameter(name, own, trainable)
        return self.parameters[name]

    def _value(self, name: str, node: Any) -> Value:
        if name not in self.values:
            if name not in self.contents.tensors:
                raise ModelFileError(f"node {node.name or node.op_type!r} reads {name!r}, which nothing before it makes.")
            self.values[name] = constant(in_memory(self.contents.tensors[name]), name)
        return self.values[name]

    def _output(self, name: str) -> Value:
        if name not in self.values:
            if name not in self.contents.tensors:
                raise ModelFileError(f"output {name!r} is made by no node.")
            self.values[name] = constant(in_memory(self.contents.tensors[name]), name)
        return self.values[name]

    def _layer_name(self, node: Any) -> str:
        stem = node.name or next(iter(n for n in node.output if n), node.op_type)
        name, number = stem, 1
        while name in self.names:
            name, number = f"{stem}_{number}", number + 1
        self.names.add(name)
        return name


def _check_signature(op: Operator, node: Any) -> None:
    """Whether the graphs inside of an ``If`` or ``Loop`` take and give as much as the node."""
    where = f"{op.op_type} {node.name or next(iter(node.output), '')!r}"
    n_carried = len(node.input) - 2
    for name in ("then_branch", "else_branch") if op.op_type == "If" else ("body",):
        graph = op.attributes.get(name)
        if not isinstance(graph, Subgraph):
            raise ModelFileError(message(where, name, "be a graph", type(graph).__name__))
        if op.op_type == "If":
            fits = not graph.inputs and len(graph.outputs) == len(node.output)
        else:
            fits = len(graph.inputs) == len(node.input) and 1 + n_carried <= len(graph.outputs) == 1 + len(node.output)
        if not fits:
            rule = f"fit a node of {len(node.input)} inputs and {len(node.output)} outputs"
            raise ModelFileError(message(where, name, rule, f"{len(graph.inputs)} inputs, {len(graph.outputs)} outputs"))


def _weight_name(name: str, taken: Iterable[str]) -> str:
    """The initializer's own name, free of what separates layer and weight in model files."""
    key = name.replace("/", ".").strip(".") or "weight"
    return key if key not in ("*", *taken) else f"{key}.{len(list(taken))}"


@dataclass(frozen=True)
class Description:
    """What an ONNX model asks for, whether or not all of it can be computed.

    Attributes
    ----------
    name : str
    versions : dict of str to int
        Operator sets by domain, "" for ONNX's own, after conversion.
    inputs, outputs : dict of str to (dtype, shape or None), or None
    operators : dict of str to int
        How many nodes of each.
    n_parameters : int
        Elements of all float tensors.
    unsupported : list of str
        A line for each operator that nothing installed computes.
    """

    name: str
    versions: dict[str, int]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    operators: dict[str, int]
    n_parameters: int
    unsupported: list[str]


def describe(source: Any, external_data: bool = False, limits: OnnxLimits | None = None) -> Description:
    """Read an ONNX model without building it, so that one with unknown operators can be looked at. Arguments as ``load``.

    Raises
    ------
    ModelFileError
        If the model cannot be read.
    ImportError
        Without the package ``onnx``.
    """
    importer = _Importer(read(source, external_data, limits, stay=True))
    contents, proto = importer.contents, importer.proto
    operators = [importer._operator(node) for node in proto.node]
    return Description(
        proto.name, importer.versions,
        {v.name: contents.types.get(v.name) for v in proto.input if v.name not in contents.tensors},
        {v.name: contents.types.get(v.name) for v in proto.output},
        dict(Counter(op.title for op in operators).most_common()),
        sum(array.size for array in contents.tensors.values() if array.dtype.kind == "f"),
        unsupported((op, node.name or node.output[0]) for op, node in zip(operators, proto.node, strict=True)))
