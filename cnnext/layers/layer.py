"""The contract of a layer: what every built-in layer and every plugin gives.

A layer file has one order: attributes, parameters, shape rule, gradient, lowering. What a layer must give:

- attributes, declared in the class body (``cnnext.layers.attributes``);
- ``parameters(*shapes)``: names, shapes and initializers of what it learns;
- ``output_shape(*shapes)`` (or ``output_shapes`` when there are several);
- how it computes, one of: ``compose(g, *x)`` out of other layers; ``forward`` / ``backward`` on NumPy arrays;
  ``lower(b, node)`` into kernel calls, with ``gradient(g, node, *diff_dst)``.

The optional rest has defaults: ``to_onnx``, ``as_affine``, ``as_epilogue``, ``commuted``, ``view``, ``band``, ``images``,
``window``, ``macs``.

``to_onnx(b, node)`` says what the layer is in an ONNX file: ``b``, a ``cnnext.onnx.builder.OnnxBuilder``, appends nodes and
names tensors. The layer is asked in its channels-last form; its ``activation``, if it has such an attribute, is exported
after it. Without the rule, a built-in layer is written out as what it composes; a layer of a plugin is an operator in the
domain of its vendor with its composition as a function body, or, if it composes nothing, without one.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnext.errors import PluginError, message
from cnnext.graph.graph import FLOAT32, Graph, Node, Parameter, Shape, Value
from cnnext.layers.attributes import REQUIRED, Attribute
from cnnext.training.regularizers import L1L2

if TYPE_CHECKING:
    from cnnext.graph.plan import PlanBuilder, View
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.stored import Tensor
    from cnnext.training.initializers import Initializer


@dataclass(frozen=True)
class ParameterSpec:
    """What a layer says of one parameter before it exists.

    Parameters
    ----------
    shape : tuple of int
    initializer : str or Initializer
        Of ``cnnext.training.initializers``.
    fan_in, fan_out : int
        What the variance-scaling initializers divide by.
    trainable : bool
    regularizer : L1L2, optional
        A penalty that is added to the loss.
    """

    shape: tuple[int, ...]
    initializer: str | Initializer = "glorot_uniform"
    fan_in: int = 1
    fan_out: int = 1
    trainable: bool = True
    regularizer: L1L2 | None = None


@dataclass(frozen=True)
class Window:
    """How a layer's output pixels look at its input pixels, for receptive fields: (rows, columns) each.

    Output o reads the pixels ``o * strides + k * dilation - padding``, k from 0 to ``kernel - 1``. With ``upsampling`` u
    these are pixels of the source spread by u, of which every u-th exists: a transposed convolution, an enlarged image.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    upsampling: tuple[int, int] = (1, 1)


@dataclass
class Gradients:
    """What a layer's gradient rule returns: values for its inputs and weights, None where there is none."""

    inputs: Sequence[Value | None]
    weights: dict[str, Value | None] | None = None


@dataclass(frozen=True)
class Band:
    """How some rows of a layer's output are computed: by the layer, with other attributes, from some rows of its inputs.

    Parameters
    ----------
    rows : tuple of (first, last) or None
        For each input the rows (axis 1) that are read, ``last`` exclusive; None: the input whole.
    attributes : tuple of (name, value)
        What differs from the layer's own attributes, once the input is just these rows: the padding.
    """

    rows: tuple[tuple[int, int] | None, ...]
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Images:
    """What of a node belongs to single images, the first axis of a value (N, H, W, C).

    Parameters
    ----------
    inputs : tuple of bool
        Which inputs are cut by images like the output; the others are read whole for each image.
    unit : int
        Images that one index of the output's first axis stands for: for sums over several of them.
    """

    inputs: tuple[bool, ...]
    unit: int = 1


class _Counter(threading.local):
    """Numbers for default names: conv2d, conv2d_1, ..."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}


_counter = _Counter()


def _default_name(stem: str) -> str:
    count = _counter.taken.get(stem, 0)
    _counter.taken[stem] = count + 1
    return stem if count == 0 else f"{stem}_{count}"


class Layer:
    """Base class of all layers.

    Parameters
    ----------
    name : str, optional
        Shown in summaries, errors and plans; numbered automatically when missing.

    Attributes
    ----------
    type_name : str
        ``vendor/Layer@version``: what a model file stores.
    weights : dict of str to Parameter
        Empty until the layer is first applied to a value.
    trainable : bool
        May be set at any time. False freezes the layer: training leaves its parameters as they are, and a layer that keeps
        statistics (batch normalization) uses those, as in inference, and does not move them.
    """

    type_name: ClassVar[str] = ""
    attributes: ClassVar[dict[str, Attribute]] = {}
    data_format: str = "channels_last"

    name: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = {k: v for k, v in vars(cls).items() if isinstance(v, Attribute)}
        cls.attributes = {**cls.attributes, **declared}
        for key in declared:
            delattr(cls, key)
        if "__init__" not in vars(cls):
            cls.__signature__ = _signature(cls.attributes)  # type: ignore[attr-defined]

    def __init__(self, *args: Any, name: str | None = None, **kwargs: Any) -> None:
        label = type(self).__name__.lower()
        where = label if name is None else f"{label} {name!r}"
        given = self._bind(where, args, kwargs)
        self._given_name = name
        for key, attribute in type(self).attributes.items():
            value = given.get(key, attribute.default)
            if value is REQUIRED:
                raise TypeError(f"{where}: `{key}` must be given.")
            setattr(self, key, attribute.check(where, key, value))
        self.name = name if name is not None else _default_name(label)
        self.weights: dict[str, Parameter] = {}
        self._weight_values: dict[str, Value] = {}
        self._trainable = True
        self.stored_weights: dict[str, Tensor] | None = None  # a model file's, taken by build instead of new ones
        self._built_for: tuple[Shape, ...] | None = None
        self.validate()

    @classmethod
    def _bind(cls, where: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = list(cls.attributes)
        if len(args) > len(names):
            raise TypeError(f"{where}: takes {len(names)} arguments ({', '.join(names)}), {len(args)} were given.")
        given = dict(zip(names, args, strict=False))
        for key, value in kwargs.items():
            if key not in cls.attributes:
                from cnnext.errors import unknown

                raise TypeError(f"{where}: " + unknown("argument", key, [*names, "name"]))
            if key in given:
                raise TypeError(f"{where}: `{key}` must be given once.")
            given[key] = value
        return given

    def validate(self) -> None:
        """Check rules between attributes; raise ``ValueError``."""

    def take_name_beside(self, taken: Container[str]) -> None:
        """Where the name is taken and nobody gave it, take the next number that is free."""
        stem, number = type(self).__name__.lower(), 1
        while self._given_name is None and self.name in taken:
            self.name, number = f"{stem}_{number}", number + 1

    @property
    def trainable(self) -> bool:
        """Whether training may change what the layer holds."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(message(self.where, "trainable", "be True or False", value))
        self._trainable = bool(value)

    @property
    def where(self) -> str:
        """How errors call this layer."""
        return f"{type(self).__name__.lower()} {self.name!r}"

    @property
    def kind(self) -> str:
        """What summaries call this type of layer."""
        return type(self).__name__

    def error(self, argument: str, rule: str, value: object, *shapes: Shape) -> ValueError:
        """An error of this layer in the grammar of all errors."""
        context = "source shape " + ", ".join(str(s) for s in shapes) if shapes else ""
        return ValueError(message(self.where, argument, rule, value, context))

    def config(self) -> dict[str, Any]:
        """The attributes as JSON-able values, for model files and copies."""
        values = ((key, attribute, getattr(self, key)) for key, attribute in type(self).attributes.items())
        return {key: _to_json(value) for key, attribute, value in values if attribute.is_stored(value)}

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str) -> Layer:
        """The layer that ``config`` described, under the given name."""
        return cls(name=name, **config)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{key}={getattr(self, key)!r}"
            for key, attribute in type(self).attributes.items()
            if attribute.default is REQUIRED or getattr(self, key) != attribute.check(self.where, key, attribute.default)
        )
        return f"{type(self).__name__}({shown})"

    # Parameters

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        """What the layer learns, given the shapes of its inputs (channels-last)."""
        return {}

    def parameter_names(self, *shapes: Shape) -> list[str]:
        """The names of the parameters, in their order; shapes as the layer's ``data_format`` has them."""
        return list(self.parameters(*self._channels_last(shapes)))

    def build(self, *shapes: Shape) -> None:
        """Create the parameters, once; later calls check that the new shapes want the same ones."""
        from cnnext.plugins import contained

        with contained(self, "parameters"):
            specs = dict(self.parameters(*self._channels_last(shapes)))
            if not all(isinstance(spec, ParameterSpec) for spec in specs.values()):
                raise PluginError(message(self.where, "parameters", "return a ParameterSpec for each name", specs))
        if self._built_for is not None:
            for key, spec in specs.items():
                if self.weights[key].shape != spec.shape:
                    raise self.error(key, f"have shape {spec.shape} for this source, which is not what the layer was "
                                          "built for", self.weights[key].shape, *shapes)
            return
        stored, self.stored_weights = self.stored_weights, None
        if stored is not None and {k: a.shape for k, a in stored.items()} != {k: s.shape for k, s in specs.items()}:
            wanted = ", ".join(f"{key} {spec.shape}" for key, spec in specs.items())
            raise self.error("weights", f"have the shapes {wanted}" if wanted else "be absent",
                             {k: a.shape for k, a in stored.items()}, *shapes)
        for key, spec in specs.items():
            data = stored[key] if stored is not None else self._drawn(key, spec)
            self.weights[key] = Parameter(f"{self.name}/{key}", data, spec.trainable, spec.regularizer)
        self._built_for = shapes

    def _drawn(self, key: str, spec: ParameterSpec) -> np.ndarray:
        from cnnext.plugins import contained
        from cnnext.training.initializers import initialize  # imports numpy.random, which files do not need

        with contained(self, "parameters"):
            return initialize(spec, f"{self.where}, {key}")

    # Shape rule

    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the output from the shapes of the inputs (channels-last); an extent may be None."""
        raise TypeError(f"{self.where}: the layer must define output_shape or output_shapes.")

    def output_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        """Shapes of all outputs; for a layer of one output, ``output_shape`` is enough."""
        return [self.output_shape(*shapes)]

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        """Dtypes of the outputs; float32 inputs give float32 outputs unless a layer says otherwise."""
        for dtype in dtypes:
            if dtype != FLOAT32:
                raise TypeError(message(self.where, "src", "be float32", str(dtype)))
        return [FLOAT32] * self.n_outputs

    n_outputs: ClassVar[int] = 1
    n_inputs: ClassVar[int | None] = 1  # None: any number from one on

    def infer_shapes(self, *shapes: Shape) -> list[Shape]:
        """The shape rule with ranks and counts checked and ``data_format`` respected."""
        if self.n_inputs is not None and len(shapes) != self.n_inputs or not shapes:
            wanted = "one value or more" if self.n_inputs is None else f"{self.n_inputs} value(s)"
            raise self.error("inputs", f"be {wanted}", len(shapes))
        from cnnext.plugins import contained

        with contained(self, "shape rule"):
            shapes_out = [tuple(s) for s in self.output_shapes(*self._channels_last(shapes))]
            # `type` first: asking an abstract class takes its time, for thousands of extents of a graph
            if not all(n is None or (type(n) is int or isinstance(n, Integral)) and n >= 0
                       for shape in shapes_out for n in shape):
                raise PluginError(message(self.where, "output_shape", "return extents: whole numbers or None",
                                          shapes_out))
        if self.data_format == "channels_first":
            return [to_channels_first(s) for s in shapes_out]
        return shapes_out

    def _channels_last(self, shapes: Sequence[Shape]) -> list[Shape]:
        if self.data_format == "channels_first":
            if any(len(s) < 2 for s in shapes):
                raise self.error("src", "have rank 2 at least, (N, C, ...)", shapes[0], *shapes)
            return [to_channels_last(s) for s in shapes]
        return list(shapes)

    # Building graphs

    def __call__(self, inputs: Value | Sequence[Value]) -> Any:
        """Apply the layer to a value, or a list of values; returns the output, or the list of outputs."""
        values = [inputs] if isinstance(inputs, Value) else list(inputs) if isinstance(inputs, Iterable) else [inputs]
        if not all(isinstance(value, Value) for value in values):
            raise TypeError(message(self.where, "inputs", "be values that cnnext.Input or a layer made", inputs))
        shapes = [v.shape for v in values]
        self.infer_shapes(*shapes)
        self.build(*shapes)
        graph = Graph([], [])
        outputs = graph.apply(self, *values, weights=self.weight_values())
        return outputs[0] if len(outputs) == 1 else outputs

    def weight_values(self) -> dict[str, Value]:
        """The layer's parameters as values of a graph: always the same ones, so that the gradients of all uses meet."""
        for key, p in self.weights.items():
            if key not in self._weight_values:
                self._weight_values[key] = Value(p.shape, FLOAT32, p.name, parameter=p)
        return dict(self._weight_values)

    # How it computes

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value | Sequence[Value] | None:
        """The layer as a small graph of other layers (shapes are channels-last), or None if it lowers itself."""
        return None

    def is_identity(self, training: bool) -> bool:
        """Whether the layer passes its input on unchanged in this mode."""
        return False

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        """Append the nodes that compute the gradients of ``node``'s inputs and weights from those of its outputs."""
        if type(self).backward is Layer.backward:
            raise TypeError(f"{self.where}: the layer has no gradient.")
        from cnnext.layers import numpy_level

        return numpy_level.gradient(self, g, node, diff_dst)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        """Append the kernel calls that compute the node."""
        if type(self).forward is Layer.forward:
            raise TypeError(f"{self.where}: the layer must define compose, forward or lower.")
        from cnnext.layers import numpy_level

        numpy_level.lower_forward(self, b, node)

    def forward(self, ctx: Any, *src: np.ndarray) -> Any:
        """Compute with NumPy: the output array, or a list of them.

        ``ctx.weights`` holds the weights by name and ``ctx.training`` the mode; whatever else ``forward`` sets on ``ctx``
        is there for ``backward``. The arrays are views of the engine's memory: read them, never write or keep them
        beyond ``backward``.
        """
        raise TypeError(f"{self.where}: the layer has no forward.")

    def backward(self, ctx: Any, *diff_dst: np.ndarray) -> Any:
        """Gradients of the inputs from those of the outputs; those of weights go to ``ctx.diff_weights[name]``."""
        raise TypeError(f"{self.where}: the layer has no backward.")

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        """Append the ONNX nodes that compute the node in inference, and store its outputs."""
        raise TypeError(f"{self.where}: the layer has no form in ONNX of its own.")

    onnx_as_composed: ClassVar[bool] = False  # a plugin's layer: written out, as built-in ones are, instead of a function

    # Optional protocols

    accepts_epilogue: ClassVar[bool] = False
    dense_outputs: ClassVar[bool] = False  # results have no gaps between pixels: gradients of weights

    def as_epilogue(self) -> tuple[str, tuple[float, ...]] | None:
        """Name and constants of the elementwise function that the layer is, or None."""
        return None

    def as_affine(self, g: Graph, node: Node) -> tuple[Value, Value] | None:
        """In inference the layer is ``x * scale + shift`` per channel: the two values of shape (C,), or None."""
        return None

    def fold_affine(self, g: Graph, node: Node, scale: Value, shift: Value) -> dict[str, Value] | None:
        """This node's weights with a per-channel scale and shift of its output folded in, or None if it cannot."""
        return None

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]] | None:
        """How the layer commutes with a permutation of its sources' axes, or None if it does not.

        Returns f' and the permutation P' with ``f(P(x), ...) = P'(f'(x, ...))``, where P is ``numpy.transpose`` by ``axes``
        and f this layer, whose node has sources ``P(x)``. Elementwise functions commute with every permutation.
        """
        return (self, axes) if self.as_epilogue() is not None and not node.weights else None

    def view(self, node: Node, src: View) -> View | list[View] | None:
        """The output (each of them) as another view of the input's memory, or None where that needs a copy."""
        return None

    @property
    def views_input(self) -> bool:
        """Whether the output may lie in the input's memory (``view``)."""
        return type(self).view is not Layer.view

    def band(self, node: Node, first: int, last: int) -> Band | None:
        """How rows ``first`` to ``last`` (exclusive) of the output (N, H, W, C) are computed; None: never by themselves.

        A layer that says so can be computed band by band, together with its neighbours, so that what lies between them
        never leaves the cache. Asked in inference alone. Elementwise functions need the same rows of their source.
        """
        if self.as_epilogue() is None or node.weights or len(node.inputs) != 1:
            return None
        return Band(((first, last),))

    def images(self, node: Node) -> Images | None:
        """Which inputs some images of the output (N, H, W, C) are computed from; None: not from images apart.

        A training step computes neighbouring layers that say so for some images at a time, so that what one writes is still
        in the cache when the next reads it. Inputs of other shapes than (N, H, W, C) are never cut, whatever this says.
        """
        return Images((True,)) if self.as_epilogue() is not None and not node.weights and len(node.inputs) == 1 else None

    keeps_order: ClassVar[bool] = False  # the output has the source's elements in the source's order

    def place(self, node: Node, dst: View) -> list[View] | None:
        """Where in the output's memory each input could be computed directly, or None."""
        return None

    @property
    def window(self) -> Window | None:
        """For receptive fields; None for a layer that sees one pixel (or all)."""
        return None

    sees_everything: ClassVar[bool] = False

    def macs(self, node: Node) -> int:
        """Multiply-accumulate operations of one run of the node (concrete shapes)."""
        return 0


def _signature(attributes: dict[str, Attribute]) -> inspect.Signature:
    """What ``help`` shows of a layer's constructor."""
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    # A required attribute may follow one with a default where a subclass adds it: then it is shown by name only.
    shown, seen_default = [], False
    for key, attribute in attributes.items():
        seen_default |= attribute.default is not REQUIRED
        by_name = seen_default and attribute.default is REQUIRED
        default = empty if attribute.default is REQUIRED else attribute.default
        shown.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY if by_name else kind, default=default))
    shown.sort(key=lambda p: p.kind)
    return inspect.Signature([*shown, inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=None)])


def to_channels_first(shape: Shape) -> Shape:
    """(N, ..., C) -> (N, C, ...)."""
    return (shape[0], shape[-1], *shape[1:-1])


def to_channels_last(shape: Shape) -> Shape:
    """(N, C, ...) -> (N, ..., C)."""
    return (shape[0], *shape[2:], shape[1])


def _to_json(value: Any) -> Any:
    if isinstance(value, Layer):
        return {"type": value.type_name, "attributes": value.config()}
    if isinstance(value, L1L2):
        return [value.l1, value.l2]
    if isinstance(value, tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, float) and value in (float("inf"), -float("inf")):
        return "inf" if value > 0 else "-inf"
    return value
