"""ONNX operators as layers: ``OnnxOperator`` in the model, ``NumpyOperator`` in the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.layer import Layer
from cnnext.onnx.operator import Operator

if TYPE_CHECKING:
    from cnnext.graph.plan import PlanBuilder

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
    """

    type_name = "cnnext/OnnxOperator@1"
    n_inputs = None

    def __init__(self, operator: Operator, slots: Sequence[str], types: Sequence[Type | None], name: str):
        super().__init__(name=name)
        self.operator = operator
        self.slots = tuple(slots)
        self.types = tuple(types)

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """Outputs that have a name."""
        return len(self.types)

    @property
    def where(self) -> str:
        return f"{self.operator.title} {self.name!r}"

    def __repr__(self) -> str:
        attributes = "".join(f", {key}={value!r}" for key, value in self.operator.attributes.items())
        return f"OnnxOperator({self.operator.title}{attributes})"

    def infer_shapes(self, *shapes: Shape) -> list[Shape]:
        # () stands for an unknown rank as well: only the plan needs the truth, and it does not ask here
        return [(known[1] if known is not None and known[1] is not None else ()) for known in self.types]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return [known[0] if known is not None else np.dtype(np.float32) for known in self.types]

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Sequence[Value]:
        from cnnext.onnx.site import Site

        return Site.of(self, g, x, weights).values()


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
            made = evaluate_wanted(op, [None if i is None else src[i] for i in positions])
            for target, array in zip(dst, made, strict=True):
                target[...] = array

        b.step(f"numpy {op.title}", [b.view(v) for v in node.inputs], [b.view(v) for v in node.outputs],
               why="no kernel for this form", entry=call)


def evaluate_wanted(op: Operator, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The outputs that have a name, computed by NumPy."""
    from cnnext.onnx.numpy_ops import evaluate

    made = evaluate(op, arrays)
    return [np.asarray(made[i]) for i, wanted in enumerate(op.wanted) if wanted]
