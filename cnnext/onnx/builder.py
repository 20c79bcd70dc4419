"""``OnnxBuilder``: what a layer's ``to_onnx`` appends ONNX nodes with.

ONNX's image operators are channels-first, values of cnnext are channels-last. A value may therefore be in the file more than
once, as tensors of different **orders**: an order lists, for each axis of the tensor, the axis of the value that it is, so
that (0, 3, 1, 2) is the channels-first tensor of an image. A tensor of a further order is a Transpose of the first, appended
when a node asks for it; layers that treat all axes alike follow their inputs, so that inside a network hardly any node asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import Node, Shape, Value
from cnnext.layers.layer import to_channels_first
from cnnext.onnx.files import require_onnx
from cnnext.onnx.operator import Operator

__all__ = ["Library", "OnnxBuilder"]

onnx = require_onnx()

Order = tuple[int, ...]

LAST_INDEX = np.iinfo(np.int64).max     # of a Slice: to the end


@dataclass
class Library:
    """What a file holds beside its graph: functions, and the domains of operators that are not ONNX's own."""

    functions: dict[bytes, Any] = field(default_factory=dict)     # by their contents without the name
    domains: dict[str, int] = field(default_factory=dict)

    def use(self, domain: str, version: int) -> None:
        """Note that the file has operators of a domain."""
        self.domains[domain] = max(version, self.domains.get(domain, 1))

    def add(self, function: Any) -> str:
        """Take a function, unless there is one of the same body; returns the name: a number follows that of another body."""
        key = function.SerializeToString(deterministic=True)
        if key not in self.functions:
            names, stem, number = {f.name for f in self.functions.values() if f.domain == function.domain}, function.name, 1
            while function.name in names:
                number += 1
                function.name = f"{stem}_body{number}"
            self.functions[key] = function
        return self.functions[key].name


@dataclass
class _Flat:
    """An image whose elements were strung together: how a dense layer may read it without a Transpose before it."""

    src: Value
    order: Order
    name: str
    tensor: str = ""


@dataclass
class _Tensors:
    """The tensors of a value by their order, the first made first; ``later`` makes that when it is asked for."""

    names: dict[Order, str] = field(default_factory=dict)
    later: Callable[[], None] | None = None
    flat: _Flat | None = None


@dataclass(frozen=True)
class _Form:
    """How an operator wants a parameter: see ``OnnxBuilder.weight``."""

    flip: Order
    split: Order | None
    axes: Order | None
    shape: Order | None

    def of(self, array: np.ndarray) -> np.ndarray:
        """The array in this form."""
        array = np.flip(array, self.flip)
        array = array if self.split is None else array.reshape(self.split)
        array = array if self.axes is None else array.transpose(self.axes)
        return array if self.shape is None else array.reshape(self.shape)


class OnnxBuilder:
    """The nodes of an ONNX graph, or of a function, under construction.

    Parameters
    ----------
    opset : int
        Version of ONNX's own operators; a layer whose operator came later is written out of others.
    library : Library
    function : bool
        Functions have no initializers: constants become nodes. Their names say nothing of the layer, so that equal layers
        have equal functions.

    Attributes
    ----------
    node : Node or None
        The one being exported: where names of tensors and nodes come from, and what errors name.
    """

    def __init__(self, opset: int, library: Library, function: bool = False):
        self.opset = opset
        self.library = library
        self.node: Node | None = None
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._function = function
        self._tensors: dict[Value, tuple[_Tensors, Order]] = {}
        self._weights: dict[tuple[Any, ...], str] = {}
        self._taken: set[str] = set()
        self._node_names: set[str] = set()

    # Reading values

    def get(self, value: Value, order: Order | None = None) -> str:
        """The name of a value's tensor; with ``order``, of that whose axis i is axis ``order[i]`` of the value."""
        order = plain(value) if order is None else order
        if value not in self._tensors:
            return self.weight(value, order)
        tensors, base = self._tensors[value]
        if tensors.later is not None:
            make, tensors.later = tensors.later, None
            make()
        wanted = tuple(base[axis] for axis in order)
        if wanted not in tensors.names:
            first, name = next(iter(tensors.names.items()))
            made = self._tensor_name(value, order)
            self.append("Transpose", [name], [made], f"{value.name}/transpose",
                        {"perm": [first.index(axis) for axis in wanted]})
            tensors.names[wanted] = made
        return tensors.names[wanted]

    def get_first(self, value: Value) -> str:
        """The name of a value's channels-first tensor."""
        return self.get(value, channels_first(value))

    def layout(self, *values: Value) -> Order:
        """The order that most of the values have already, for layers that work in any: they follow their inputs."""
        rank = max(len(v.shape) for v in values)
        votes: Counter[Order] = Counter()
        for value in values:
            if len(value.shape) < rank:
                if None in value.shape:
                    return tuple(range(rank))
            elif value in self._tensors:
                votes.update(self._orders(value))
        return max(votes, key=lambda order: votes[order]) if votes else tuple(range(rank))

    def _orders(self, value: Value) -> list[Order]:
        tensors, base = self._tensors[value]
        return [tuple(base.index(axis) for axis in names) for names in tensors.names] or [plain(value)]

    def operand(self, value: Value, order: Order) -> str:
        """A value that is to be broadcast to values of ``order``, whose rank may be higher."""
        missing = len(order) - len(value.shape)
        if missing == 0:
            return self.get(value, order)
        if order == tuple(range(len(order))) or value.shape == (1,):
            return self.get(value)
        return self.weight(value, order, split=(1,) * missing + value.shape)

    def extents(self, value: Value) -> tuple[int, ...]:
        """The value's shape without the batch, for rules that need all of it.

        Raises
        ------
        ValueError
            If an extent is not known.
        """
        if None in value.shape[1:]:
            raise ValueError(message(self._where(), "src", "have a known shape but for the batch, to be exported",
                                     value.shape))
        return tuple(n for n in value.shape[1:] if n is not None)

    # Parameters and constants

    def weight(self, value: Value, axes: Sequence[int] | None = None, *, split: Sequence[Any] | None = None,
               shape: Sequence[Any] | None = None, flip: Sequence[int] = ()) -> str:
        """A parameter in the form that an operator wants: flipped, reshaped, its axes permuted, reshaped again.

        Parameters
        ----------
        value : Value
            A parameter or a constant, rearranged here; or a value that is computed, rearranged by nodes.
        axes : tuple of int, optional
            A permutation, as of ``numpy.transpose``.
        split, shape : tuple of int, optional
            The shape before and after the permutation.
        flip : tuple of int
            Axes to reverse, before all else.
        """
        if axes is not None and list(axes) == list(range(len(axes))):
            axes = None
        form = _Form(tuple(flip), *(None if part is None else tuple(part) for part in (split, axes, shape)))
        if not value.is_persistent:
            return self._rearranged(value, form)
        owner = value.parameter or value
        if (owner, form) not in self._weights:
            array = value.parameter.data if value.parameter is not None else value.data
            assert array is not None
            self._weights[owner, form] = self._initializer(form.of(array), owner.name)
        return self._weights[owner, form]

    def _rearranged(self, value: Value, form: _Form) -> str:
        if value not in self._tensors:
            raise ValueError(message(self._where(), "inputs", "be made by a node, or be an input of the model", value))
        name = self.get(value)
        if form.flip:
            first, stop, step = (self.ints(*[end] * len(form.flip)) for end in (-1, -LAST_INDEX, -1))
            name = self.op("Slice", name, first, stop, self.ints(*form.flip), step)
        if form.split is not None:
            name = self.op("Reshape", name, self.ints(*form.split))
        if form.axes is not None:
            name = self.op("Transpose", name, perm=list(form.axes))
        return name if form.shape is None else self.op("Reshape", name, self.ints(*form.shape))

    def weights_of(self, node: Node, *keys: str) -> list[str]:
        """The node's weights of these names as they are; those that it does not have are left out."""
        return [self.get(node.weights[key]) for key in keys if key in node.weights]

    def constant(self, array: np.ndarray, label: str = "constant") -> str:
        """An array that the node needs, once for each contents."""
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._weights:
            self._weights[key] = self._initializer(array, f"{self._scope()}/{label}")
        return self._weights[key]

    def scalar(self, number: float) -> str:
        """A float32 of rank 0."""
        return self.constant(np.array(number, np.float32))

    def ints(self, *numbers: int | None) -> str:
        """Whole numbers as an int64 vector: shapes, axes, pads."""
        return self.constant(np.array(numbers, np.int64), "integers")

    def _initializer(self, array: np.ndarray, name: str) -> str:
        name = self._unique(name)
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if self._function:
            self.append("Constant", [], [name], name, {"value": tensor})
        else:
            self.initializers.append(tensor)
        return name

    # Appending nodes

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output on the way to a result; returns the name of that. "" leaves an input out."""
        label = f"{self._scope()}/{op_type.lower()}"
        made = self._unique(label)
        self.append(op_type, inputs, [made], label, attributes)
        return made

    def result(self, value: Value, op_type: str, inputs: Sequence[str], order: Order | None = None,
               **attributes: Any) -> None:
        """Append the node that makes a value, as a tensor of an order; it is named as the value is."""
        order = plain(value) if order is None else order
        made = self._tensor_name(value, order)
        self.append(op_type, inputs, [made], value.name, attributes)
        self.store(value, made, order)

    def result_first(self, value: Value, op_type: str, inputs: Sequence[str], **attributes: Any) -> None:
        """``result`` of a channels-first tensor."""
        self.result(value, op_type, inputs, channels_first(value), **attributes)

    def results(self, values: Sequence[Value], op_type: str, inputs: Sequence[str], order: Order | None = None,
                **attributes: Any) -> None:
        """Append the node that makes several values, of one rank and order."""
        order = plain(values[0]) if order is None else order
        made = [self._tensor_name(value, order) for value in values]
        self.append(op_type, inputs, made, self._scope(), attributes)
        for value, name in zip(values, made, strict=True):
            self.store(value, name, order)

    def alias(self, value: Value, source: Value, axes: Order | None = None) -> None:
        """Say that a value is another one, with its axes permuted as by ``numpy.transpose``: no node is needed."""
        if source not in self._tensors:
            name = self.weight(source)
            self.store(source, name, plain(source))
        tensors, base = self._tensors[source]
        self._tensors[value] = tensors, tuple(base[axis] for axis in (plain(value) if axes is None else axes))

    def reduction(self, op_type: str, x: str, axes: Sequence[int],
                  keepdims: bool = True) -> tuple[list[str], dict[str, Any]]:
        """Inputs and attributes of a ReduceSum, ReduceMean ...; of most, the axes are an input from opset 18 on."""
        if op_type != "ReduceSum" and self.opset < 18:
            return [x], {"axes": list(axes), "keepdims": int(keepdims)}
        return [x, self.ints(*axes)], {"keepdims": int(keepdims)}

    def image_sizes(self, x: str, size: Sequence[int]) -> str:
        """The input "sizes" of a Resize of a channels-first image: all axes, since to name some came late."""
        outer = self.op("Slice", self.op("Shape", x), self.ints(0), self.ints(2))
        return self.op("Concat", outer, self.ints(*size), axis=0)

    def slice(self, x: str, ranges: Mapping[int, tuple[int, int | None]]) -> tuple[str, list[str]]:
        """Operator and inputs that cut a tensor along some of its axes; a stop of None is the end."""
        stops = [LAST_INDEX if stop is None else stop for _, stop in ranges.values()]
        return "Slice", [x, self.ints(*(start for start, _ in ranges.values())), self.ints(*stops), self.ints(*ranges)]

    def cut(self, x: str, ranges: Mapping[int, tuple[int, int | None]]) -> str:
        """Append a ``slice`` on the way to a result."""
        op_type, inputs = self.slice(x, ranges)
        return self.op(op_type, *inputs)

    def flatten(self, value: Value, src: Value) -> None:
        """Make a value of rank 2 of all axes but the batch in order; a dense layer alone may get them in another."""
        order = self.layout(src)
        if order == plain(src) or None in src.shape[1:]:
            self.result(value, "Flatten", [self.get(src)], axis=1)
            return
        tensors = _Tensors(flat=_Flat(src, order, value.name))
        tensors.later = lambda: self.result(value, "Flatten", [self.get(src)], axis=1)
        self._tensors[value] = tensors, plain(value)

    def flattened(self, value: Value) -> tuple[str, Shape, Order] | None:
        """Of a flattened image that has only been asked for here: its elements in the order of a tensor that is there.

        Returns
        -------
        tensor, shape of the image, order : str, tuple, tuple
            None for other values.
        """
        tensors = self._tensors[value][0] if value in self._tensors else _Tensors()
        flat = tensors.flat
        if flat is None or tensors.names:
            return None
        if not flat.tensor:
            flat.tensor = self._unique(f"{flat.name}/channels_first")
            self.append("Flatten", [self.get(flat.src, flat.order)], [flat.tensor], flat.name, {"axis": 1})
        return flat.tensor, flat.src.shape, flat.order

    def append(self, op_type: str, inputs: Iterable[str], outputs: Sequence[str], name: str, attributes: dict[str, Any],
               domain: str = "", note: str = "") -> None:
        """Append a node by names of tensors; attributes that are None are left out."""
        given = {key: onnx.numpy_helper.from_array(a) if isinstance(a, np.ndarray) else a
                 for key, a in attributes.items() if a is not None}
        name = _unique(op_type.lower() if self._function else name, self._node_names)
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), list(outputs), name, domain=domain or None,
                                                doc_string=note or None, **given))

    def has_same(self, op: Operator) -> bool:
        """Whether an operator means the same in this file; one of another domain is made to, by the domain's version."""
        if op.domain:
            self.library.use(op.domain, op.version)
            return True
        try:
            versions = {onnx.defs.get_schema(op.op_type, version).since_version for version in (op.version, self.opset)}
        except onnx.defs.SchemaError:
            return False
        return len(versions) == 1

    def operator(self, node: Node, op_type: str, inputs: Sequence[str], attributes: dict[str, Any], domain: str = "",
                 note: str = "", wanted: Sequence[bool] | None = None) -> None:
        """Append the node that makes all outputs of a layer; ``wanted`` says which of the operator's are among them."""
        names = iter(self.reserve(v.name for v in node.outputs))
        made = [next(names) if want else "" for want in wanted or [True] * len(node.outputs)]
        self.append(op_type, inputs, made, node.name, attributes, domain, note)
        for value, name in zip(node.outputs, filter(None, made), strict=True):
            self.store(value, name, plain(value))

    def store(self, value: Value, name: str, order: Order) -> None:
        """Say which tensor a value has."""
        tensors, base = self._tensors.setdefault(value, (_Tensors(), plain(value)))
        tensors.names[tuple(base[axis] for axis in order)] = name

    # Beginning and end

    def reserve(self, names: Iterable[str]) -> list[str]:
        """Names that nothing else may take, made different from each other."""
        return [_unique(name, self._taken) for name in names]

    def finish(self, values: Sequence[Value], names: Sequence[str]) -> None:
        """Give the tensors of the outputs their names, or copies of them where a tensor has a name that it must keep."""
        there = [self.get(value) for value in values]
        made = {name for node in self.nodes for name in node.output}
        new_names: dict[str, str] = {}
        for name, wanted in zip(there, names, strict=True):
            if name in made and name not in new_names:
                new_names[name] = wanted
            else:
                self.append("Identity", [name], [wanted], wanted, {})
        for node in self.nodes:
            for tensors in (node.input, node.output):
                tensors[:] = [new_names.get(name, name) for name in tensors]

    def _where(self) -> str:
        return self.node.layer.where if self.node is not None else "model"

    def _scope(self) -> str:
        return self.node.name if self.node is not None else "model"

    def _tensor_name(self, value: Value, order: Order) -> str:
        kinds = {plain(value): "", channels_first(value): "/channels_first"}
        return self._unique(value.name + (kinds.get(order, "/transposed") if order != plain(value) else ""))

    def _unique(self, name: str) -> str:
        return _unique("value" if self._function else name, self._taken)


def plain(value: Value) -> Order:
    """The order of a tensor with the value's own axes."""
    return tuple(range(len(value.shape)))


def channels_first(value: Value) -> Order:
    """The order (N, C, ...) of the tensor of a value (N, ..., C)."""
    axes = plain(value)
    return tuple(a for a in to_channels_first(axes) if a is not None) if len(axes) > 1 else axes


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken."""
    found, number = name or "value", 0
    while found in taken:
        number += 1
        found = f"{name or 'value'}_{number}"
    taken.add(found)
    return found
