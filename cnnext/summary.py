"""What a network is made of, as text: ``summary``; and what its pixels see: ``receptive_field``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING

from cnnext.errors import PluginError
from cnnext.geometry import resolve_padding, unreached
from cnnext.graph.graph import Graph, Node, Parameter, Shape, Value
from cnnext.graph.passes import prepare
from cnnext.graph.passes.expand import expand_node
from cnnext.graph.passes.recompute import kept_bytes
from cnnext.layers.layer import Layer, Window, to_channels_last
from cnnext.layers.missing import MissingLayer

if TYPE_CHECKING:
    from cnnext.model import Model


def summary(model: Model) -> str:
    """The layers of a model as a table.

    Output shapes have None for the batch. Parameters of a layer that is used twice are counted once. MACs are
    multiply-accumulate operations per sample, ``?`` where an extent is open. The notes name what a strided window never
    reads, and the layers that are frozen. Where the network is no chain, one more column says what each layer reads.
    """
    graph = model.graph
    macs = _macs(graph)
    chain = _is_chain(graph)
    rows = [["layer (type)", "output shape", "parameters", "MACs", *([] if chain else ["reads"]), "notes"]]
    counted: set[Layer] = set()
    for node, count in zip(graph.nodes, macs, strict=True):
        cells = [f"{node.name} ({_type(node.layer)})", ", ".join(str(v.shape) for v in node.outputs),
                 f"{_count(node.layer.weights.values()):,}" if node.layer not in counted else "shared",
                 "?" if count is None else f"{count:,}"]
        reads = [] if chain else [", ".join(v.name for v in node.inputs)]
        notes = [unread_note(node), "" if node.layer.trainable else "frozen"]
        rows.append([*cells, *reads, "; ".join(n for n in notes if n)])
        counted.add(node.layer)
    inputs = ", ".join(f"{v.name} {v.shape}" for v in graph.inputs)
    return "\n".join([f"{model.name}: {inputs} -> {', '.join(str(v.shape) for v in graph.outputs)}",
                      *_table(rows, right=(2, 3)), _totals(model.parameters, model.trainable_parameters, macs)])


def training_summary(model: Model, batch_size: int) -> str:
    """What a step of training keeps in memory, in MB (10^6 bytes), without and with ``checkpoint_activations``.

    Gradients are those of all parameters, activations what the backward pass reads of the forward pass. They lie in the
    arena, with what kernels need besides, each only as long as it is read; so it may be smaller than their sum. Parameters,
    the optimizer's state and the arena make the total.
    """
    trainer = model._compiled()
    shapes = [v.with_batch(batch_size) for v in model.graph.inputs]
    plans = [trainer.build(shapes, True, checkpoint).plan for checkpoint in (False, True)]
    trained = [p for p in model.parameters if p.trainable]
    kept = 4 * _count(model.parameters), 4 * _count(s for p in trained for s in trainer.optimizer.states(p))
    columns = [[*kept, 4 * _count(trained), kept_bytes(plan.graph), plan.arena_bytes, sum(kept) + plan.arena_bytes]
               for plan in plans]
    names = ["parameters", f"state of {type(trainer.optimizer).__name__}", "gradients", "activations kept", "arena", "total"]
    in_use = ("", " (in use)") if trainer.checkpoint_activations else (" (in use)", "")
    rows = [[f"training, batch {batch_size}", f"MB{in_use[0]}", f"with checkpoint_activations{in_use[1]}"]]
    rows += [[name, *(f"{n_bytes / 1e6:,.1f}" for n_bytes in row)] for name, *row in zip(names, *columns, strict=True)]
    return "\n".join(_table(rows, right=(1, 2)))


def _type(layer: Layer) -> str:
    return f"missing {layer.type_name}" if isinstance(layer, MissingLayer) else layer.kind


def _totals(parameters: Sequence[Parameter], trained: Sequence[Parameter], macs: Sequence[int | None]) -> str:
    trainable = _count(trained)
    known = sum(count or 0 for count in macs)
    total = f"{known:,}" if None not in macs else f"at least {known:,}" if known else "?"
    return f"total: {_count(parameters):,} parameters ({trainable:,} trainable), {total} MACs per sample"


def _count(parameters: Iterable[Parameter]) -> int:
    return sum(p.size for p in parameters)


def _macs(graph: Graph) -> list[int | None]:
    """MACs of each node for one sample: those of the layers that it is made of, None where an extent is open."""
    shapes = [v.with_batch(1) for v in graph.inputs]
    if all(n is not None for shape in shapes for n in shape):
        try:
            return _macs_of_all(graph, shapes)
        except (PluginError, ValueError):    # a layer whose plugin is missing, shapes that the data decides
            pass
    return [_node_macs(node) for node in graph.rebuild(_copy_all, shapes).nodes]


def _macs_of_all(graph: Graph, shapes: Sequence[Shape]) -> list[int | None]:
    macs: list[int | None] = []

    def rule(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
        first = len(g.nodes)
        outputs = expand_node(g, node, inputs)
        macs.append(sum(part.layer.macs(part) for part in g.nodes[first:]))
        return outputs

    graph.rebuild(rule, shapes, training=False)
    return macs


def _copy_all(graph: Graph, node: Node, inputs: list[Value]) -> None:
    """The rule of ``Graph.rebuild`` that replaces nothing."""


def _node_macs(node: Node) -> int | None:
    if any(n is None for v in (*node.inputs, *node.outputs) for n in v.shape):
        return None
    alone = Graph([], [])
    inputs = [Value(v.shape, v.dtype, v.name) for v in node.inputs]
    alone.inputs = inputs
    alone.outputs = alone.apply(node.layer, *inputs, weights=node.weights)
    try:
        return sum(part.layer.macs(part) for part in prepare(alone, [v.shape for v in inputs], training=False).nodes)
    except PluginError:  # a layer whose plugin is missing
        return None


def _is_chain(graph: Graph) -> bool:
    values = [graph.inputs[0], *(v for node in graph.nodes for v in node.outputs)]
    return (len(graph.inputs) == len(graph.outputs) == 1 and graph.outputs[0] is values[-1]
            and len(values) == len(graph.nodes) + 1
            and all(node.inputs == [v] for node, v in zip(graph.nodes, values, strict=False)))


def _table(rows: list[list[str]], right: tuple[int, ...]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(w) if i in right else cell.ljust(w)
                  for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:], rule]


# Windows


def unread_note(node: Node) -> str:
    """The rows and columns of a node's source that its window never reads, as text: "1 row, 1 column unread"."""
    source, result = (image_size(v.shape, node.layer) for v in (node.inputs[0], node.outputs[0]))
    window = _resolved_window(node.layer, source)
    if window is None or window.strides == window.dilation == (1, 1):
        return ""
    parts = []
    for axis, word in enumerate(("row", "column")):
        size, out = source[axis], result[axis]
        if size is None or out is None:
            continue
        count = unreached(size, window.kernel[axis], window.strides[axis], (window.padding[axis], 0),
                          window.dilation[axis], out)
        if count:
            parts.append(f"{count} {word}{'s' if count > 1 else ''}")
    return f"{', '.join(parts)} unread" if parts else ""


def image_size(shape: Shape, layer: Layer) -> tuple[int | None, int | None]:
    """Rows and columns; a sequence is an image of one row, what has no pixels one of 1 x 1."""
    if layer.data_format == "channels_first" and len(shape) > 2:
        shape = to_channels_last(shape)
    if len(shape) < 3:
        return 1, 1
    return (1, shape[1]) if len(shape) == 3 else (shape[1], shape[2])


def _resolved_window(layer: Layer, size: tuple[int | None, int | None]) -> Window | None:
    """The layer's window; the padding of "same" is the one for this size where the size is known."""
    window = layer.window
    if window is None or window.upsampling != (1, 1) or getattr(layer, "padding", None) != "same":
        return window
    if size[0] is None or size[1] is None:
        return window
    (top, _), (left, _) = resolve_padding("same", (size[0], size[1]), window.kernel, window.strides, window.dilation)
    return replace(window, padding=(top, left))


# Receptive fields


@dataclass(frozen=True)
class ReceptiveField:
    """What one pixel of a layer's output sees of the network's input, (rows, columns) each.

    Output pixel (i, j) depends on the ``size`` input pixels from row ``offset[0] + i * stride[0]`` and column
    ``offset[1] + j * stride[1]`` on. What lies outside the image is padding.

    Attributes
    ----------
    name : str
        The layer.
    size : tuple of int or None
        None where the whole input is seen and its extent is open.
    stride, offset : tuple of int or Fraction
        0 where the whole input is seen. Fractions behind an upsampling layer: the field then begins with the next whole
        pixel, and ``size`` is an upper bound.
    """

    name: str
    size: tuple[int | None, int | None]
    stride: tuple[int | Fraction, int | Fraction]
    offset: tuple[int | Fraction, int | Fraction]


class ReceptiveFields(list[ReceptiveField]):
    """The fields of all layers in order; prints as a table."""

    def __repr__(self) -> str:
        rows = [["layer", "size", "stride", "offset"]]
        rows += [[f.name, *(_pair_text(p) for p in (f.size, f.stride, f.offset))] for f in self]
        return "\n".join(_table(rows, right=(1, 2, 3)))


def _pair_text(pair: Sequence[object]) -> str:
    return " x ".join("?" if n is None else str(n) for n in pair)


@dataclass(frozen=True)
class _Field:
    """One axis: output pixel i sees the input positions from ``start + i * stride`` to ``reach`` further on."""

    start: Fraction
    reach: Fraction
    stride: Fraction
    whole: bool = False

    def through(self, kernel: int, stride: int, dilation: int, padding: int, upsampling: int) -> _Field:
        """The field behind one more window.

        Tap k of output o reads pixel ``o * stride + k * dilation - padding`` of the source, whose neighbours lie
        ``self.stride / upsampling`` input pixels apart.
        """
        if self.whole:
            return self
        step = self.stride / upsampling
        return _Field(self.start - padding * step, self.reach + (kernel - 1) * dilation * step, step * stride)

    def size(self, extent: int | None) -> int | None:
        """Input pixels in the field, of an input of ``extent`` pixels."""
        return extent if self.whole else floor(self.reach) + 1

    def union(self, other: _Field) -> _Field:
        """What a pixel sees that joins two values."""
        if self.whole or other.whole:
            return self if self.whole else other
        start = min(self.start, other.start)
        end = max(self.start + self.reach, other.start + other.reach)
        return _Field(start, end - start, max(self.stride, other.stride))


def receptive_field(net: Model) -> ReceptiveFields:
    """Size, stride and offset of the receptive field of every layer.

    Follows the recurrences of Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    Distill 2019: through a window of ``kernel`` taps, the size grows by ``(kernel - 1) * dilation * stride`` of the
    layers before it, the stride is multiplied by the window's, and the padding moves the first pixel to the left. Where
    branches join, the union counts; of several inputs, all are taken to lie upon each other. A layer that sees all of
    its input (``Dense`` behind ``Flatten``, a global pool) sees the whole image.

    Parameters
    ----------
    net : Model

    Returns
    -------
    list of ReceptiveField
        One for each layer in the order of the network; prints as a table.
    """
    graph = net.graph
    whole = _input_size(graph)
    fields = {v: [_Field(Fraction(0), Fraction(0), Fraction(1))] * 2 for v in graph.inputs}
    result = ReceptiveFields()
    for node in graph.nodes:
        both = _node_fields(node, [fields[v] for v in node.inputs if v in fields])
        fields.update((v, both) for v in node.outputs)
        row, column = both
        result.append(ReceptiveField(node.name, (row.size(whole[0]), column.size(whole[1])),
                                     (_tidy(row.stride), _tidy(column.stride)),
                                     (_tidy(row.start), _tidy(column.start))))
    return result


def _tidy(number: Fraction) -> int | Fraction:
    return int(number) if number.denominator == 1 else number


def _node_fields(node: Node, sources: list[list[_Field]]) -> list[_Field]:
    joined = sources[0]
    for other in sources[1:]:
        joined = [a.union(b) for a, b in zip(joined, other, strict=True)]
    if _sees_everything(node):
        return [_Field(Fraction(0), Fraction(0), Fraction(0), whole=True)] * 2
    window = _resolved_window(node.layer, image_size(node.inputs[0].shape, node.layer))
    if window is None:
        return joined
    return [
        f.through(window.kernel[axis], window.strides[axis], window.dilation[axis], window.padding[axis],
                  window.upsampling[axis])
        for axis, f in enumerate(joined)
    ]


def _sees_everything(node: Node) -> bool:
    """Whether each result depends on all pixels; ``Dense`` on images sees one pixel at a time."""
    source, result = node.inputs[0].shape, node.outputs[0].shape
    per_pixel = len(source) > 2 and source[1:-1] == result[1:-1]
    return node.layer.sees_everything and not per_pixel


def _input_size(graph: Graph) -> tuple[int | None, int | None]:
    """Rows and columns of the first input, by the data format of the layer that reads it."""
    value = graph.inputs[0]
    readers = [node.layer for node in graph.nodes if value in node.inputs]
    return image_size(value.shape, readers[0]) if readers else (None, None)
