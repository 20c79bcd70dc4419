"""Boxes: parts of a value, cut along its axes, as views of its memory; and their gradient, which puts them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnext._native.executor import BINARY
from cnnext.graph.graph import FLOAT32, Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import row_step
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

Range = tuple[int, "int | None"]  # start and stop, exclusive; no stop: to the end
Box = tuple[Range, ...]           # one range for each axis but the batch


def box_shape(src: Shape, box: Box) -> Shape:
    """The shape of a box of a source."""
    ends = [n if stop is None else stop for n, (_, stop) in zip(src[1:], box, strict=True)]
    return (src[0], *(None if end is None else end - start for end, (start, _) in zip(ends, box, strict=True)))


def box_view(src: View, box: Box) -> View:
    """The view of a box of a source."""
    for axis, (start, stop) in enumerate(box, 1):
        src = src.sliced(axis, start, src.shape[axis] if stop is None else stop)
    return src


def concrete(src: Shape, box: Box) -> tuple[tuple[int, int], ...]:
    """The box with every stop written out, for a source of known extents."""
    return tuple((start, (n or 0) if stop is None else stop) for n, (start, stop) in zip(src[1:], box, strict=True))


def grid_edges(extent: int | None, parts: int) -> list[Range]:
    """An axis cut into parts whose extents differ by one at most; open ranges where the extent is unknown."""
    if extent is None:
        return [(0, None)] * parts
    return [(i * extent // parts, (i + 1) * extent // parts) for i in range(parts)]


def coverage(boxes: Sequence[Box], src: Shape) -> np.ndarray:
    """How many boxes hold each part of the source, in the coarsest raster whose lines are the boxes' borders."""
    written_out = [concrete(src, box) for box in boxes]
    lines = [sorted({0, n or 0, *(edge for box in written_out for edge in box[axis])}) for axis, n in enumerate(src[1:])]
    count = np.zeros([len(edges) - 1 for edges in lines], np.int64)
    for box in written_out:
        count[tuple(slice(*np.searchsorted(edges, part)) for edges, part in zip(lines, box, strict=True))] += 1
    return count


class Cut(Layer):
    """What the layers share whose outputs are boxes of their source: each is a view of the source's memory."""

    def cuts(self, src: Shape) -> Sequence[Box]:
        """The boxes for a source; raises ``ValueError`` where it has no such boxes."""
        raise TypeError(f"{self.where}: the layer must define cuts.")

    def output_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        (src,) = shapes
        return [box_shape(src, box) for box in self.cuts(src)]

    @property
    def n_parts(self) -> int:
        """How many outputs the layer has."""
        return 1

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return list(super().output_dtypes(*dtypes)) * self.n_parts

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (src,) = node.inputs
        parts = [(box, dy) for box, dy in zip(self.cuts(src.shape), diff_dst, strict=True) if dy is not None]
        back = PutBack([box for box, _ in parts], src.shape, f"{self.name}/diff_src")
        return Gradients([g.apply1(back, *(dy for _, dy in parts))])

    def view(self, node: Node, src: View) -> list[View]:
        return [box_view(src, box) for box in self.cuts(src.shape)]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        for part, value in zip(self.view(node, b.view(node.inputs[0])), node.outputs, strict=True):
            if b.view(value) != part:
                copy_view(b, part, b.view(value), why="slice")

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        b.extents(src)
        for box, value in zip(self.cuts(src.shape), node.outputs, strict=True):
            ranges = {order.index(axis): part for axis, part in enumerate(box, 1)
                      if part not in ((0, None), (0, src.shape[axis]))}
            if ranges:
                b.result(value, *b.slice(b.get(src, order), ranges), order)
            else:
                b.alias(value, src)


class PutBack(Layer):
    """Values added into boxes of a result that is 0 elsewhere: the gradient of cutting boxes out.

    Where the boxes are tiles of the result, their producers write into its memory directly.
    """

    n_inputs = None

    def __init__(self, boxes: Sequence[Box], shape: Shape, name: str):
        super().__init__(name=name)
        self.boxes = list(boxes)
        self.shape = tuple(shape)
        count = coverage(boxes, shape)
        self.overlap = bool((count > 1).any())
        self.are_tiles = bool((count == 1).all())

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], *self.shape[1:])

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (dy,) = diff_dst
        assert dy is not None
        return Gradients(g.apply(Boxes(self.boxes, f"{self.name}/diff_src"), dy))

    def place(self, node: Node, dst: View) -> list[View] | None:
        return [box_view(dst, box) for box in self.boxes] if self.are_tiles else None

    def lower(self, b: PlanBuilder, node: Node) -> None:
        dst = b.view(node.output)
        if not self.are_tiles:
            zero = b.constant(np.zeros((1,) * len(dst.shape), FLOAT32))
            copy_view(b, zero.expanded(dst.shape), dst, why="zeros")
        for box, value in zip(self.boxes, node.inputs, strict=True):
            target, source = box_view(dst, box), b.view(value)
            if self.overlap:
                row_step(b, "binary", [target, source], [target], {"op": BINARY["add"]}, why="overlapping boxes")
            elif source != target:
                copy_view(b, source, target, why="join")


class Boxes(Cut):
    """Given boxes of the source, one output each: the gradient of joins."""

    def __init__(self, boxes: Sequence[Box], name: str):
        super().__init__(name=name)
        self.boxes = list(boxes)

    def cuts(self, src: Shape) -> Sequence[Box]:
        return self.boxes

    @property
    def n_parts(self) -> int:
        return len(self.boxes)
