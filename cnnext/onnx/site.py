"""Where an operator becomes layers: the graph under construction, the operator's inputs, and the three ways to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import FLOAT32, Graph, Shape, Value, constant
from cnnext.graph.memory import check_memory
from cnnext.graph.stages import ContentsNeeded, DataDependent
from cnnext.layers.layer import Layer
from cnnext.onnx.layer import NumpyOperator, OnnxOperator, evaluate_wanted, named
from cnnext.onnx.operator import Operator

if TYPE_CHECKING:
    from cnnext.onnx.support import Rule

# Inputs whose contents decide the shape of the result.
_SHAPE_OPERANDS: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,), "Expand": (1,),
    "MaxUnpool": (2,), "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,), "Upsample": (1,),
    "BlackmanWindow": (0,), "HannWindow": (0,), "HammingWindow": (0,), "MelWeightMatrix": (0, 1, 2, 3, 4),
    "DFT": (1, 2), "STFT": (1, 3),
    **{f"Reduce{name}": (1,) for name in ("Max", "Min", "Mean", "Sum", "Prod", "L1", "L2", "SumSquare", "LogSum",
                                          "LogSumExp")},
}
# Random, or not an operator that NumPy knows.
_NOT_FOLDED = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
               "Dropout", "If", "Loop"}


@dataclass
class Site:
    """An operator with its inputs, about to become layers.

    Attributes
    ----------
    layer : OnnxOperator
    op : Operator
    g : Graph
        Shapes are concrete.
    inputs : list of Value or None
        By the operator's positions.
    """

    layer: OnnxOperator
    op: Operator
    g: Graph
    inputs: list[Value | None]
    _node_index: list[int | None]

    @staticmethod
    def of(layer: OnnxOperator, g: Graph, x: Sequence[Value], weights: dict[str, Value]) -> Site:
        """The site of a layer in a graph; ``x`` and ``weights`` as ``compose`` gets them."""
        inputs: list[Value | None] = []
        index: list[int | None] = []
        rest = iter(enumerate(x))
        for slot in layer.slots:
            i, value = next(rest) if slot == "*" else (None, weights[slot] if slot else None)
            inputs.append(value)
            index.append(i)
        return Site(layer, layer.operator, g, inputs, index)

    # What a rule asks

    @property
    def name(self) -> str:
        return self.layer.name

    def has(self, i: int) -> bool:
        """Whether the input is there."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        """An input that must be there."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise self.error("inputs", f"have input {i}", len(self.inputs))
        return found

    def shape(self, i: int) -> tuple[int, ...]:
        """The concrete shape of an input."""
        return tuple(n or 0 for n in self.value(i).shape)

    def known(self, i: int) -> np.ndarray | None:
        """The contents of an input where they are constant; None where it is left out or not known."""
        value = self.inputs[i] if i < len(self.inputs) else None
        return None if value is None else value.data

    def contents(self, i: int) -> np.ndarray:
        """The contents of an input on which the plan depends.

        Raises
        ------
        ContentsNeeded
            If they come with the data: the plan is then made when they are there.
        """
        value = self.value(i)
        if value.data is None:
            self._wait_for([i])
        assert value.data is not None
        return value.data

    def _wait_for(self, positions: Sequence[int]) -> None:
        indices = [self._node_index[i] for i in positions]
        if any(i is None for i in indices):
            raise self.error("inputs", "be constant where the shape of the result depends on them", positions)
        raise ContentsNeeded([i for i in indices if i is not None])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.op.attributes.get(name, default)

    def axis(self, i: int, name: str = "axis", default: int = -1, rank: int | None = None) -> int:
        """An attribute that counts axes of input ``i``, as a number of at least 0."""
        axis, rank = int(self.attribute(name, default)), len(self.value(i).shape) if rank is None else rank
        if not -rank <= axis < max(rank, 1):
            raise self.error(name, f"be an axis of a value of rank {rank}", axis)
        return axis % rank if rank else 0

    def axes(self, position: int, rank: int, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """Axes that an input or, in older operator sets, the attribute ``axes`` gives; ``default`` without both."""
        if self.has(position):
            given = [int(a) for a in self.contents(position).reshape(-1)]
        else:
            given = self.attribute("axes", default)
        if given is None:
            return None
        if any(not -rank <= a < rank for a in given) or len({a % rank for a in given}) != len(given):
            raise self.error("axes", f"be different axes of a value of rank {rank}", given)
        return tuple(a % rank for a in given)

    def error(self, argument: str, rule: str, value: object) -> ValueError:
        """An error in the grammar of all errors, with the node's name."""
        shapes = ", ".join(str(v.shape) for v in self.inputs if v is not None)
        return ValueError(message(self.layer.where, argument, rule, value, f"source shapes {shapes}"))

    # What a rule makes

    def apply(self, layer: Layer, *x: Value, **weights: Value | None) -> Value:
        """Append a layer of one output."""
        given = {key: v for key, v in weights.items() if v is not None}
        return self.g.apply1(layer, *x, weights=given, name=self.name)

    def constant(self, array: np.ndarray) -> Value:
        """A constant that the rule computed."""
        return constant(array, self.name)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The value under another shape."""
        from cnnext.layers.reshape import ReshapeTo

        if value.shape == tuple(shape):
            return value
        if value.data is not None:
            return constant(value.data.reshape([n or 0 for n in shape]), value.name)
        return self.apply(ReshapeTo(shape, self.name), value)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """The value with its axes permuted."""
        from cnnext.layers.permute import Transpose

        if tuple(axes) == tuple(range(len(axes))):
            return value
        if value.data is not None:
            return constant(value.data.transpose(axes), value.name)
        return self.apply(Transpose(tuple(axes), name=self.name), value)

    # How it goes on

    def values(self) -> list[Value]:
        """The operator's outputs: as constants, out of layers, or computed by NumPy.

        Raises
        ------
        ValueError, TypeError
            Which name the node, whatever went wrong: the model's file decides what comes here.
        """
        with named(self.op, self.name):
            return self._values()

    def _values(self) -> list[Value]:
        from cnnext.onnx.rules import ANY_TYPE
        from cnnext.onnx.support import rule_of

        if self._is_constant():
            return self._folded()
        rule = rule_of(self.op)
        if rule is not None and (self.op.domain == "" and self.op.op_type in ANY_TYPE or self._is_for_kernels()):
            made = self._by(rule)
            if made is not None:
                return made
        return self._in_numpy()

    def _folded(self) -> list[Value]:
        made = [constant(array, self.name)
                for array in evaluate_wanted(self.op, [None if v is None else v.data for v in self.inputs])]
        self.g.folded_bytes += sum(v.data.nbytes for v in made if v.data is not None)
        check_memory(f"{self.layer.where}, with the constants before it", self.g.folded_bytes)
        return made

    def _by(self, rule: Rule) -> list[Value] | None:
        first = len(self.g.nodes)
        made = rule(self)
        if made is None:
            del self.g.nodes[first:]
            return None
        return [made] if isinstance(made, Value) else list(made)

    def _is_constant(self) -> bool:
        if any(v is not None and v.data is None for v in self.inputs):
            return False
        from cnnext.onnx.numpy_ops import is_supported  # takes its time to import, and most models need none of it

        return not (self.op.domain == "" and self.op.op_type in _NOT_FOLDED) and is_supported(self.op)

    def _is_for_kernels(self) -> bool:
        """Whether the data is what kernels take: float32, at least one element, not too many axes."""
        data = [v for v in self.inputs if v is not None and v.data is None]
        return all(v.dtype == FLOAT32 and prod(n or 0 for n in v.shape) > 0 and len(v.shape) <= 8 for v in data)

    def _in_numpy(self) -> list[Value]:
        from cnnext.onnx.numpy_ops import infer

        present = [i for i, v in enumerate(self.inputs) if v is not None]
        operands = _SHAPE_OPERANDS.get(self.op.op_type, ()) if self.op.domain == "" else ()
        waiting = [i for i in operands if self.has(i) and self.known(i) is None]
        if waiting:
            self._wait_for(waiting)
        types = infer(self.op, [None if v is None else (v.dtype, tuple(n or 0 for n in v.shape)) for v in self.inputs],
                      [None if v is None else v.data for v in self.inputs])
        order = {position: i for i, position in enumerate(present)}
        positions = [order.get(i) for i in range(len(self.inputs))]
        if types is None:
            raise DataDependent(self._evaluate)
        wanted = [known for known, named in zip(types, self.op.wanted, strict=False) if named]
        if any(dtype.hasobject for dtype, _ in wanted):
            raise self.error("outputs", "be tensors of numbers", [dtype for dtype, _ in wanted])
        values = [v for v in self.inputs if v is not None]
        return self.g.apply(NumpyOperator(self.op, positions, wanted, self.name), *values, name=self.name)

    def _evaluate(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with named(self.op, self.name):
            return evaluate_wanted(self.op, self.arrays(arrays))

    def arrays(self, given: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """The inputs by position, from what the node reads as data; weights are parameters."""
        full: list[np.ndarray | None] = []
        for value, i in zip(self.inputs, self._node_index, strict=True):
            parameter = None if value is None else value.parameter
            full.append(given[i] if i is not None else parameter.data if parameter is not None else None)
        return full
