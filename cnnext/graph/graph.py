"""The graph: values, the nodes that make them, and parameters.

A node is a layer applied to values. The graph knows shapes, names and who reads what; it knows nothing of memory, strides,
threads or instruction sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.plugins import contained
from cnnext.stored import Stored, Tensor, in_memory

if TYPE_CHECKING:
    from cnnext.graph.stages import Rest
    from cnnext.layers.layer import Layer
    from cnnext.training.regularizers import L1L2

Shape = tuple["int | None", ...]

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)


class Parameter:
    """An array that a layer owns and that outlives every plan.

    ``version`` grows with every change, so that a plan knows when weights packed from it are stale.

    Parameters
    ----------
    name : str
    data : ndarray or Stored
        Contents in a file are read when ``data`` is first asked for; plans read them without keeping them.
    trainable : bool
    regularizer : L1L2, optional
        A penalty that training adds to the loss; may be set at any time.
    """

    __slots__ = ("_contents", "name", "regularizer", "shape", "trainable", "version")

    changes: ClassVar[int] = 0      # of all parameters: while it stands still, no plan has to look at its own

    def __init__(self, name: str, data: Tensor, trainable: bool = True, regularizer: L1L2 | None = None):
        self.name = name
        self.regularizer = regularizer
        self._contents: Tensor = (
            data if isinstance(data, Stored) else np.ascontiguousarray(data, dtype=np.float32))
        self.shape: tuple[int, ...] = self._contents.shape
        self.trainable = trainable
        self.version = 0

    @property
    def data(self) -> np.ndarray:
        """The contents, writable; tell ``changed`` after writing."""
        contents = self._contents
        if isinstance(contents, Stored):
            with contents.file.lock:    # all who ask get one array
                contents = self._contents = in_memory(self._contents)
        return contents

    @data.setter
    def data(self, array: np.ndarray) -> None:
        self._contents = array
        self.shape = array.shape

    def peek(self) -> np.ndarray:
        """The contents to look at: ``data``, or a copy that is not kept."""
        return in_memory(self._contents)

    @property
    def stored(self) -> Stored | None:
        """Where in a file the contents are, until they are in memory."""
        return self._contents if isinstance(self._contents, Stored) else None

    @property
    def size(self) -> int:
        """Elements."""
        return self._contents.size

    def assign(self, array: np.ndarray) -> None:
        """Copy new contents into the same memory."""
        self.data[...] = array
        self.changed()

    def changed(self) -> None:
        """Note that the contents have changed."""
        self.version += 1
        Parameter.changes += 1

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape})"


class Value:
    """An array that flows along an edge of the graph: shape and dtype, not contents.

    Attributes
    ----------
    shape : tuple of int or None
        None stands for an extent that is known only when the plan is made (the batch).
    node : Node or None
        Who makes it; None for inputs, parameters and constants.
    parameter : Parameter or None
        Set for a parameter's value.
    data : ndarray or None
        Set for a constant.
    """

    __slots__ = ("_fixed", "data", "dtype", "name", "node", "parameter", "shape")

    def __init__(self, shape: Shape, dtype: np.dtype = FLOAT32, name: str = "", node: Node | None = None,
                 parameter: Parameter | None = None, data: np.ndarray | None = None):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.name = name
        self.node = node
        self.parameter = parameter
        self.data = data
        self._fixed = None if node is not None else self.is_persistent

    @property
    def is_source(self) -> bool:
        """True for inputs, parameters and constants."""
        return self.node is None

    @property
    def is_persistent(self) -> bool:
        """True for parameters and constants: known before the run."""
        return self.parameter is not None or self.data is not None

    @property
    def is_fixed(self) -> bool:
        """True for what is computed from parameters and constants alone: once for many runs."""
        left = [self]
        while left:  # chains are longer than Python's recursion is deep
            value = left[-1]
            reads = value.node.reads if value.node is not None and value._fixed is None else []
            unknown = [v for v in reads if v._fixed is None]
            if unknown and all(v._fixed is not False for v in reads):
                left += unknown
                continue
            if value._fixed is None:
                value._fixed = all(v._fixed for v in reads)
            left.pop()
        return bool(self._fixed)

    def with_batch(self, batch: int) -> Shape:
        """The shape with its first extent set where that is open."""
        return (batch, *self.shape[1:]) if self.shape[:1] == (None,) else self.shape

    def __repr__(self) -> str:
        return f"Value({self.name or '?'}, shape={self.shape})"


def constant(array: np.ndarray, name: str = "constant") -> Value:
    """A value whose contents are known now."""
    return Value(array.shape, array.dtype, name, data=np.ascontiguousarray(array).reshape(array.shape))


@dataclass
class Epilogue:
    """What a node's kernel does to its result in registers: + ``add``, then clip, then one more function.

    ``post`` is an elementwise function by name with its constants.
    """

    add: Value | None = None
    low: float = -float("inf")
    high: float = float("inf")
    post: tuple[str, tuple[float, ...]] | None = None
    names: list[str] = field(default_factory=list)

    @property
    def clips(self) -> bool:
        return self.low != -float("inf") or self.high != float("inf")


class Node:
    """A layer applied to values.

    Attributes
    ----------
    inputs : list of Value
        The data.
    weights : dict of str to Value
        Parameter values by the names that the layer gave them.
    outputs : list of Value
    epilogue : Epilogue or None
        Set by the fusion pass.
    is_repeated : bool
        Whether the node computes again, in the backward pass, what the forward pass has dropped.
    """

    __slots__ = ("epilogue", "inputs", "is_repeated", "layer", "name", "outputs", "weights")

    def __init__(self, layer: Layer, inputs: Sequence[Value], weights: dict[str, Value], name: str,
                 epilogue: Epilogue | None = None):
        self.layer = layer
        self.inputs = list(inputs)
        self.weights = dict(weights)
        self.name = name
        self.epilogue = epilogue
        self.is_repeated = False
        self.outputs: list[Value] = []

    def exchange_reads(self, other: Callable[[Value], Value]) -> None:
        """Read ``other(value)`` in place of each value."""
        self.inputs = [other(v) for v in self.inputs]
        self.weights = {key: other(v) for key, v in self.weights.items()}
        if self.epilogue is not None and self.epilogue.add is not None:
            self.epilogue.add = other(self.epilogue.add)

    @property
    def reads(self) -> list[Value]:
        """All values that the node reads: data, weights, and what its epilogue adds."""
        extra = [self.epilogue.add] if self.epilogue is not None and self.epilogue.add is not None else []
        return [*self.inputs, *self.weights.values(), *extra]

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    @property
    def keeps_statistics(self) -> bool:
        """Whether the layer is frozen and has statistics (parameters that are never trained): it then infers in training."""
        own = (v.parameter for v in self.weights.values())
        return not self.layer.trainable and any(p is not None and not p.trainable for p in own)

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {type(self.layer).__name__})"


class Graph:
    """Nodes in the order in which they can run, from inputs to outputs.

    Attributes
    ----------
    inputs, outputs : list of Value
    nodes : list of Node
    effects : list of Node
        Nodes kept although nobody reads them, because they change parameters.
    training : bool
        Whether layers that differ take their training form.
    rest : Rest or None
        What remains to be done when this graph is the first stage of another.
    shares_batch : bool
        Whether the first axis of all inputs is one batch, of at least one sample.
    folded_bytes : int
        Of the constants that were computed while the graph was made.
    frozen : set of Parameter
        In training: those that no run changes, so that what follows from them alone is computed once.
    """

    def __init__(self, inputs: Iterable[Value], outputs: Iterable[Value], nodes: Iterable[Node] = (),
                 training: bool = False):
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.nodes = list(nodes)
        self.effects: list[Node] = []
        self.training = training
        self.seed: Value | None = None
        self.random_streams = 0
        self.rest: Rest | None = None
        self.shares_batch = True
        self.folded_bytes = 0
        self.frozen: set[Parameter] = set()

    def apply(self, layer: Layer, *inputs: Value, weights: dict[str, Value] | None = None, name: str = "") -> list[Value]:
        """Append a node and return its outputs; shapes and dtypes come from the layer's rules."""
        node = Node(layer, inputs, weights or {}, name or layer.name)
        shapes = layer.infer_shapes(*(v.shape for v in inputs))
        with contained(layer, "output_dtypes"):
            dtypes = layer.output_dtypes(*(v.dtype for v in inputs))
            if len(dtypes) != len(shapes):
                rule = f"return {len(shapes)}, one for each output"
                raise PluginError(message(layer.where, "output_dtypes", rule, list(map(str, dtypes))))
        return self.append(node, shapes, dtypes)

    def append(self, node: Node, shapes: Sequence[Shape], dtypes: Sequence[np.dtype]) -> list[Value]:
        """Append a node whose outputs' shapes and dtypes are known, and return its outputs."""
        suffixes = [""] if len(shapes) == 1 else [f":{i}" for i in range(len(shapes))]
        node.outputs = [
            Value(s, d, node.name + suffix, node) for s, d, suffix in zip(shapes, dtypes, suffixes, strict=True)
        ]
        self.nodes.append(node)
        return node.outputs

    def apply1(self, layer: Layer, *inputs: Value, weights: dict[str, Value] | None = None, name: str = "") -> Value:
        """Append a node of one output and return it."""
        (value,) = self.apply(layer, *inputs, weights=weights, name=name)
        return value

    def seed_value(self) -> Value:
        """The input that carries the run's random seed, shape (1,) int64; made when a layer first asks for it."""
        if self.seed is None:
            self.seed = Value((1,), INT64, "seed")
            self.inputs.append(self.seed)
        return self.seed

    def new_random_stream(self) -> int:
        """A number of its own for each user of the seed, in order of the nodes."""
        self.random_streams += 1
        return self.random_streams

    def consumers(self) -> dict[Value, list[Node]]:
        """Who reads each value, in order; a node that reads a value twice is listed twice."""
        readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.reads:
                readers.setdefault(value, []).append(node)
        return readers

    def parameters(self) -> list[Parameter]:
        """The parameters in the order in which nodes read them, each once.

        Nodes that composed and folded layers leave behind read parameters as data.
        """
        seen: dict[Parameter, None] = {}
        for node in self.nodes:
            for value in node.reads:
                if value.parameter is not None:
                    seen.setdefault(value.parameter)
        return list(seen)

    def frozen_parameters(self) -> set[Parameter]:
        """What layers read that are frozen."""
        frozen = (node for node in self.nodes if not node.layer.trainable)
        return {v.parameter for node in frozen for v in node.reads if v.parameter is not None}

    def rebuild(self, rule: Callable[[Graph, Node, list[Value]], list[Value] | None],
                shapes: Sequence[Shape] | None = None, training: bool | None = None,
                known: Mapping[int, np.ndarray] | None = None, staged: bool = False) -> Graph:
        """A copy of the graph in which ``rule`` may replace nodes.

        Parameters
        ----------
        rule : callable
            ``rule(new_graph, node, inputs)`` returns the values that stand for the node's outputs, having appended
            whatever it needs to ``new_graph``; None copies the node as it is.
        shapes : sequence of shape, optional
            New shapes of the inputs, from which all other shapes follow.
        training : bool, optional
            The mode of the copy; that of the graph by default.
        known : dict of int to ndarray, optional
            Contents of some inputs, by index: the copy's nodes read them as constants.
        staged : bool
            Where the rule finds that a node must wait for data (``cnnext.graph.stages``), leave it and what depends on it
            out: the copy's outputs are then what those nodes read, and ``rest`` is what remains of this graph.
        """
        from cnnext.graph.stages import LateNode, WaitsForData, remaining

        new_of: dict[Value, Value] = {}
        copy = Graph([], [], training=self.training if training is None else training)
        for i, value in enumerate(self.inputs):
            new_of[value] = Value(value.shape if shapes is None or i >= len(shapes) else shapes[i], value.dtype,
                                  value.name)
            copy.inputs.append(new_of[value])
            if known is not None and i in known:
                new_of[value] = constant(known[i], value.name)
        copy.seed = new_of[self.seed] if self.seed is not None else None
        copy.random_streams = self.random_streams
        copy.frozen = set(self.frozen)

        def new(value: Value) -> Value:
            return new_of.setdefault(value, value) if value.is_source else new_of[value]

        late: list[LateNode] = []
        for node in self.nodes:
            if late and any(v not in new_of for v in node.reads if not v.is_source):
                late.append(LateNode(node))
                continue
            inputs = [new(v) for v in node.inputs]
            first = len(copy.nodes)
            try:
                outputs = rule(copy, node, inputs)
            except WaitsForData as wait:
                if not staged:
                    raise ValueError(f"{node.name}: {wait}") from wait
                del copy.nodes[first:]
                late.append(wait.late(node))
                continue
            if outputs is None:
                weights = {key: new(v) for key, v in node.weights.items()}
                if all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(inputs, node.inputs, strict=True)):
                    outputs = copy.append(Node(node.layer, inputs, weights, node.name), [v.shape for v in node.outputs],
                                          [v.dtype for v in node.outputs])
                else:
                    outputs = copy.apply(node.layer, *inputs, weights=weights, name=node.name)
                copied = copy.nodes[-1]
                if node.epilogue is not None:
                    add = new(node.epilogue.add) if node.epilogue.add is not None else None
                    old = node.epilogue
                    copied.epilogue = Epilogue(add, old.low, old.high, old.post, list(old.names))
                if node in self.effects:
                    copy.effects.append(copied)
            new_of.update(zip(node.outputs, outputs, strict=True))
        copy.rest = remaining(self, late, [self.inputs[i] for i in known or ()]) if late else None
        copy.outputs = [new(v) for v in (copy.rest.made if copy.rest is not None else self.outputs)]
        copy.order()
        return copy

    def order(self) -> None:
        """Sort the nodes so that each stands after what it reads, and drop those that nothing needs.

        In training, nodes keep their order as far as that allows: the gradient of a layer's weights then follows that of
        its source, and the memory of ``diff_dst`` is free after it. From the outputs alone, all gradients of weights would
        come after those of all sources.
        """
        wanted = [v for node in self.effects for v in node.reads]
        needed = list(ancestors([*self.outputs, *wanted]))
        if self.training:
            known = set(needed)
            needed = list(ancestors([*(v for n in self.nodes if n in known for v in n.outputs), *self.outputs, *wanted]))
        self.nodes = [n for n in needed if n not in self.effects] + self.effects


def ancestors(outputs: Iterable[Value]) -> Iterator[Node]:
    """The nodes that the outputs depend on, each after the nodes that it depends on."""
    done: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(v.node, False) for v in reversed(list(outputs)) if v.node is not None]
    while stack:
        node, expanded = stack.pop()
        if node in done:
            continue
        if expanded:
            done.add(node)
            yield node
            continue
        stack.append((node, True))
        stack.extend((v.node, False) for v in reversed(node.reads) if v.node is not None and v.node not in done)
