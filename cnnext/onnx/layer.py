"""ONNX operators as layers: ``OnnxOperator`` in the model, ``NumpyOperator`` in the plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.stages import WaitsForData
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext.onnx.operator import Operator

if TYPE_CHECKING:
    from cnnext.graph.plan import PlanBuilder
    from cnnext.onnx.builder import OnnxBuilder

Type = tuple[np.dtype, "tuple[int | None, ...] | None"]


class OnnxOperator(Layer):
    """An ONNX operator at the level of composed layers: what it is made of is decided when the shapes are known.

    Parameters
    ----------
    operator : Operator
    slots : list of str
        For each input of the operator: "" where it is left out, "*" for the next of the node's, else the key of a weight.
    types : list of (dtype, shape) or None
        Of the outputs, as far as they are known before the shapes of the inputs are.
    name : str
    state : list of str
        Keys of weights that are not trained.
    """

    type_name = "cnnext/OnnxOperator@1"
    n_inputs = None

    def __init__(self, operator: Operator, slots: Sequence[str], types: Sequence[Type | None], name: str,
                 state: Sequence[str] = ()):
        super().__init__(name=name)
        self.operator = operator
        self.slots = tuple(slots)
        self.types = tuple(types)
        self.state = tuple(state)

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """Outputs that have a name."""
        return len(self.types)

    @property
    def where(self) -> str:
        return f"{self.operator.title} {self.name!r}"

    @property
    def kind(self) -> str:
        return self.operator.title

    def __repr__(self) -> str:
        attributes = "".join(f", {key}={value!r}" for key, value in self.operator.attributes.items())
        return f"OnnxOperator({self.operator.title}{attributes})"

    def infer_shapes(self, *shapes: Shape) -> list[Shape]:
        # () stands for an unknown rank as well: only the plan needs the truth, and it does not ask here
        return [(known[1] if known is not None and known[1] is not None else ()) for known in self.types]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [known[0] if known is not None else np.dtype(np.float32) for known in self.types]

    def config(self) -> dict[str, Any]:
        described = operator_to_json(self.where, self.operator)
        return {**described, "attributes": json.dumps(described["attributes"]),
                "slots": list(self.slots), "state": list(self.state),
                "types": [_type_to_json(known) for known in self.types]}

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str) -> OnnxOperator:
        op = operator_from_json({**config, "attributes": json.loads(config["attributes"])})
        types = [_type_from_json(known) for known in config["types"]]
        return cls(op, [str(slot) for slot in config["slots"]], types, name, [str(key) for key in config["state"]])

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        stored = self.stored_weights or {}  # a file has them in an order of its own
        keys = [key for key in self.slots if key in stored]
        return {key: ParameterSpec(stored[key].shape, trainable=key not in self.state) for key in keys}

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Sequence[Value]:
        from cnnext.onnx.site import Site

        return Site.of(self, g, x, weights).values()

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        op, data = self.operator, iter(node.inputs)
        if not b.has_same(op):
            raise ValueError(message(self.where, "opset", f"be {op.version}, in which the operator was read: it changed",
                                     b.opset))
        inputs = [b.get(next(data) if slot == "*" else node.weights[slot]) if slot else "" for slot in self.slots]
        b.operator(node, op.op_type, inputs, op.attributes, op.domain, wanted=op.wanted)


def operator_to_json(where: str, op: Operator) -> dict[str, Any]:
    """An operator as model files hold it; ``where`` begins the error about an attribute that they cannot hold."""
    return {"op_type": op.op_type, "domain": op.domain, "version": op.version, "wanted": list(op.wanted),
            "attributes": {key: _to_json(where, key, value) for key, value in op.attributes.items()}}


def operator_from_json(described: dict[str, Any]) -> Operator:
    """The operator that ``operator_to_json`` describes."""
    return Operator(str(described["op_type"]), str(described["domain"]), int(described["version"]),
                    {key: _from_json(value) for key, value in described["attributes"].items()},
                    tuple(bool(w) for w in described["wanted"]))


def array_to_json(array: np.ndarray) -> dict[str, Any]:
    """An array's type, shape and elements."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.reshape(-1).tolist()}


def array_from_json(described: dict[str, Any]) -> np.ndarray:
    """The array that ``array_to_json`` describes."""
    return np.array(described["data"], np.dtype(str(described["dtype"]))).reshape([int(n) for n in described["shape"]])


def _to_json(where: str, key: str, value: Any) -> Any:
    from cnnext.onnx.subgraphs import Subgraph

    if isinstance(value, np.ndarray):
        return array_to_json(value)
    if isinstance(value, Subgraph):
        return {"graph": value.to_json(where)}
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        raise ValueError(message(where, key, "be numbers or texts for a model file to hold it",
                                 type(value).__name__)) from None


def _from_json(value: Any) -> Any:
    from cnnext.onnx.subgraphs import Subgraph

    if isinstance(value, dict):
        return Subgraph.from_json(value["graph"]) if "graph" in value else array_from_json(value)
    return value


def _type_to_json(known: Type | None) -> list[Any] | None:
    return None if known is None else [known[0].name, None if known[1] is None else list(known[1])]


def _type_from_json(known: Any) -> Type | None:
    if known is None:
        return None
    dtype, shape = known
    return np.dtype(str(dtype)), None if shape is None else tuple(None if n is None else int(n) for n in shape)


class NumpyOperator(Layer):
    """An operator that NumPy computes, for any element types; inputs that are left out are None in ``positions``."""

    n_inputs = None

    def __init__(self, operator: Operator, positions: Sequence[int | None],
                 types: Sequence[tuple[np.dtype, tuple[int, ...]]], name: str):
        super().__init__(name=name)
        self.operator = operator
        self.positions = tuple(positions)
        self.types = tuple(types)

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """Outputs that have a name."""
        return len(self.types)

    def infer_shapes(self, *shapes: Shape) -> list[Shape]:
        return [shape for _, shape in self.types]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [dtype for dtype, _ in self.types]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        op, positions = self.operator, self.positions

        def call(src: list[np.ndarray], dst: list[np.ndarray]) -> None:
            with named(op, self.name):
                made = evaluate_wanted(op, [None if i is None else src[i] for i in positions])
            for target, array in zip(dst, made, strict=True):
                target[...] = array

        b.step(f"numpy {op.title}", [b.view(v) for v in node.inputs], [b.view(v) for v in node.outputs],
               why="no kernel for this form", entry=call)


def evaluate_wanted(op: Operator, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The outputs that have a name, computed by NumPy."""
    from cnnext.onnx.numpy_ops import evaluate

    made = [np.asarray(array) for array, wanted in zip(evaluate(op, arrays), op.wanted, strict=True) if wanted]
    if any(array.dtype.hasobject for array in made):
        raise TypeError(f"{op.title}: the outputs must be tensors of numbers.")
    return made


@contextmanager
def named(op: Operator, name: str) -> Iterator[None]:
    """Errors of any kind become ValueError or TypeError that names the node: the model's file decides what comes here."""
    try:
        yield
    except (WaitsForData, PluginError):
        raise
    except Exception as error:
        text = str(error).removeprefix(f"{op.title}: ")
        if not isinstance(error, (ValueError, TypeError)):
            text = f"{type(error).__name__}: {text}"
        elif repr(name) in text:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{op.title} {name!r}: {text}") from error
