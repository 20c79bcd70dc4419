"""Layers that join values element by element: ``Add``, ``Subtract``, ``Multiply``, ``Divide``, ``Maximum``, ``Minimum``,
``Average``; sums."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnext._native.executor import BINARY
from cnnext.graph.graph import FLOAT32, Graph, Node, Shape, Value, constant
from cnnext.graph.memory import View
from cnnext.graph.plan import TILES_WANTED, PlanBuilder
from cnnext.layers._algorithms import lower_sum_shards
from cnnext.layers._reduce import lower_reduction
from cnnext.layers._rows import coalesce, row_step
from cnnext.layers.layer import Band, Gradients, Images, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


def broadcast_shape(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """The common shape of values under NumPy's broadcasting rule; unknown extents must agree."""
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    out: list[int | None] = []
    for extents in zip(*padded, strict=True):
        known = {n for n in extents if n != 1}
        if len(known) > 1:
            raise layer.error("inputs", "have shapes that broadcast to one", tuple(shapes))
        out.append(known.pop() if known else 1)
    return tuple(out)


class Join(Layer):
    """What the layers that join two or more values share: broadcasting, and a chain of binary kernels."""

    n_inputs: ClassVar[int | None] = None
    op: ClassVar[str] = ""
    onnx_op: ClassVar[str] = ""
    onnx_variadic: ClassVar[bool] = False   # takes any number of inputs in ONNX too

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) < 2:
            raise self.error("inputs", "be two values or more", len(shapes))
        return broadcast_shape(self, shapes)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        dst = b.view(node.output)
        first, *rest = (b.view(v).expanded(dst.shape) for v in node.inputs)
        for i, view in enumerate(rest):
            row_step(b, "binary", [first if i == 0 else dst, view], [dst], {"op": BINARY[self.op]}, why=self.op)

    def band(self, node: Node, first: int, last: int) -> Band | None:
        shapes, rows = [v.shape for v in node.inputs], node.output.shape[1]
        if any(len(shape) == 3 and shape[0] != 1 for shape in shapes):     # rows without images
            return None
        return Band(tuple((first, last) if len(s) == 4 and s[1] == rows else None for s in shapes))

    def images(self, node: Node) -> Images | None:
        shapes = [v.shape for v in node.inputs]
        if any(len(shape) == 3 and shape[0] != 1 for shape in shapes):     # as above
            return None
        return Images(tuple(len(shape) == 4 and shape[0] == node.output.shape[0] for shape in shapes))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        order = b.layout(*node.inputs)
        first, *rest = (b.operand(v, order) for v in node.inputs)
        if not self.onnx_variadic:
            for name in rest[:-1]:
                first = b.op(self.onnx_op, first, name)
            rest = rest[-1:]
        b.result(node.output, self.onnx_op, [first, *rest], order)

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]] | None:
        return (self, axes) if len(axes) == len(node.output.shape) else None

    def macs(self, node: Node) -> int:
        return 0


class Add(Join):
    """Sum of values whose shapes broadcast."""

    type_name = "cnnext/Add@1"
    op = "add"
    onnx_op = "Add"

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([reduce_to(g, dy, x.shape) for x in node.inputs])


    def as_affine(self, g: Graph, node: Node) -> tuple[Value, Value] | None:
        shift = per_channel(g, node)
        return None if shift is None else (constant(np.ones(node.output.shape[-1] or 0, np.float32), "one"), shift)


class Subtract(Join):
    """First value minus the second."""

    type_name = "cnnext/Subtract@1"
    op = "subtract"
    onnx_op = "Sub"
    n_inputs = 2

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        a, b = node.inputs
        return Gradients([reduce_to(g, dy, a.shape), reduce_to(g, scaled(g, dy, -1.0), b.shape)])


class Multiply(Join):
    """Product of values whose shapes broadcast."""

    type_name = "cnnext/Multiply@1"
    op = "multiply"
    onnx_op = "Mul"

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        diffs = []
        for i, x in enumerate(node.inputs):
            product = dy
            for other in node.inputs[:i] + node.inputs[i + 1 :]:
                product = multiply(g, product, other)
            diffs.append(reduce_to(g, product, x.shape))
        return Gradients(diffs)


    def as_affine(self, g: Graph, node: Node) -> tuple[Value, Value] | None:
        scale = per_channel(g, node)
        return None if scale is None else (scale, constant(np.zeros(node.output.shape[-1] or 0, np.float32), "zero"))


class Divide(Join):
    """First value divided by the second."""

    type_name = "cnnext/Divide@1"
    op = "divide"
    onnx_op = "Div"
    n_inputs = 2

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        a, b = node.inputs
        share = g.apply1(Divide(name=f"{self.name}/share"), dy, b)
        # d(a / b) / db = -(a / b) / b
        diff_b = scaled(g, multiply(g, share, node.output), -1.0)
        return Gradients([reduce_to(g, share, a.shape), reduce_to(g, diff_b, b.shape)])


class Extremum(Join):
    """What the largest and the smallest of several values share: in the gradient a tie is shared."""

    onnx_variadic = True

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        # max(a, b, c) = max(max(a, b), c): one comparison per link of the chain, from the last back to the first.
        partial = [node.inputs[0]]
        for x in node.inputs[1:-1]:
            partial.append(g.apply1(type(self)(name=f"{self.name}/partial"), partial[-1], x))
        diffs: list[Value] = []
        for so_far, x in zip(reversed(partial), reversed(node.inputs[1:]), strict=True):
            wins, loses = (g.apply1(Compare(name=f"{self.name}/mask"), *pair) for pair in ((x, so_far), (so_far, x)))
            if self.op == "minimum":
                wins, loses = loses, wins
            diffs.insert(0, reduce_to(g, multiply(g, dy, wins), x.shape))
            dy = reduce_to(g, multiply(g, dy, loses), so_far.shape)
        return Gradients([reduce_to(g, dy, node.inputs[0].shape), *diffs])


class Maximum(Extremum):
    """Largest of the values, element by element; in the gradient a tie is shared."""

    type_name = "cnnext/Maximum@1"
    op = "maximum"
    onnx_op = "Max"


class Minimum(Extremum):
    """Smallest of the values, element by element; in the gradient a tie is shared."""

    type_name = "cnnext/Minimum@1"
    op = "minimum"
    onnx_op = "Min"


class Average(Join):
    """Mean of the values, element by element."""

    type_name = "cnnext/Average@1"
    op = "add"
    onnx_op = "Mean"
    onnx_variadic = True

    def lower(self, b: PlanBuilder, node: Node) -> None:
        super().lower(b, node)
        dst = b.view(node.output)
        factor = b.constant(np.full(1, 1.0 / len(node.inputs), np.float32)).expanded((1,) * len(dst.shape))
        row_step(b, "binary", [dst, factor.expanded(dst.shape)], [dst], {"op": BINARY["multiply"]}, why="mean")

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        share = scaled(g, dy, 1.0 / len(node.inputs))
        return Gradients([reduce_to(g, share, x.shape) for x in node.inputs])


class Compare(Join):
    """1 where the first value is greater, 1/2 where they are equal, else 0."""

    op = "greater"
    n_inputs = 2


class Equal(Join):
    """1 where the values are equal, else 0."""

    op = "equal"
    n_inputs = 2


def per_channel(g: Graph, node: Node) -> Value | None:
    """The constant or parameter that a join of two values applies to each channel, as (C,); None where it is none."""
    from cnnext.layers.reshape import ReshapeTo

    x, term = (node.inputs[::-1] if node.inputs[0].is_fixed else node.inputs)[:2]
    shape, channels = x.shape, node.output.shape[-1:]
    if len(node.inputs) != 2 or x.is_fixed or not term.is_fixed or shape != node.output.shape:
        return None
    if term.shape[-1:] != channels or any(n != 1 for n in term.shape[:-1]):
        return None
    if term.data is not None:
        return constant(term.data.reshape(-1), term.name)
    return term if term.shape == channels else g.apply1(ReshapeTo(channels, f"{term.name}/channels"), term)


class ScaleChannels(Layer):
    """x * scale over the last axis; scale has shape (C,)."""

    n_inputs = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        dst = b.view(node.output)
        src, scale = (b.view(v) for v in node.inputs)
        row_step(b, "binary", [src, scale.expanded(dst.shape)], [dst], {"op": BINARY["multiply"]}, why="scale")


class SumPixels(Layer):
    """Sum over all axes but the last: gradients of biases."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][-1],)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst = b.view(node.inputs[0]), b.view(node.output)
        lines = as_lines(src)
        shards = max(1, min(TILES_WANTED, prod(lines.shape[:-2]), src.size // 16384))
        partial = b.temp((shards, src.shape[-1]))
        target = partial if shards > 1 else View(dst.storage, dst.offset, (1, *dst.shape), (dst.size, *dst.strides))
        b.step("sum_pixels", [lines], [target], {"shards": shards}, tiles=shards, why=f"{shards} shards")
        if shards > 1:
            lower_sum_shards(b, partial, dst)


class SumTo(Layer):
    """Sum over the axes that broadcasting repeated, down to a given shape."""

    def __init__(self, shape: Shape, name: str):
        super().__init__(name=name)
        self.shape = tuple(shape)

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst = b.view(node.inputs[0]), b.view(node.output)
        shape = (1,) * (len(src.shape) - len(dst.shape)) + dst.shape
        strides = (0,) * (len(src.shape) - len(dst.shape)) + dst.strides
        lower_reduction(b, src, View(dst.storage, dst.offset, shape, strides))


def reduce_to(g: Graph, value: Value, shape: Shape) -> Value:
    """The gradient of broadcasting: sum over the axes along which ``shape`` was repeated."""
    if value.shape == tuple(shape):
        return value
    return g.apply1(SumTo(shape, name="sum_to"), value)


def as_lines(view: View) -> View:
    """(..., W, C) with the axes before W merged as far as their strides allow; (N, C) as N lines of one pixel."""
    if len(view.shape) == 1:
        return View(view.storage, view.offset, (1, 1, *view.shape), (view.size, view.size, *view.strides))
    if len(view.shape) == 2:
        return View(view.storage, view.offset, (view.shape[0], 1, view.shape[1]), (view.strides[0], *view.strides))
    (heads,) = coalesce([View(view.storage, view.offset, view.shape[:-2], view.strides[:-2])])
    return View(view.storage, view.offset, (*heads.shape, *view.shape[-2:]), (*heads.strides, *view.strides[-2:]))


class Copy(Layer):
    """The value itself in memory of its own."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        copy_view(b, b.view(node.inputs[0]), b.view(node.output))


def copy_view(b: PlanBuilder, src: View, dst: View, why: str = "copy") -> None:
    """Append the copy of a view of any strides into another of the same shape."""
    if dst.storage.dtype != FLOAT32:
        b.step("copy", [src], [dst], why=f"{why}, {dst.storage.dtype}", entry=_copy_arrays)
        return
    row_step(b, "copy", [src], [dst], why=why, strided=True)


def _copy_arrays(src: Sequence[np.ndarray], dst: Sequence[np.ndarray]) -> None:
    dst[0][...] = src[0]


def add(g: Graph, *values: Value) -> Value:
    """Append the sum of values."""
    return g.apply1(Add(name="add"), *values)


def multiply(g: Graph, *values: Value) -> Value:
    """Append the product of values."""
    return g.apply1(Multiply(name="multiply"), *values)


def scaled(g: Graph, value: Value, factor: float) -> Value:
    """Append value * factor."""
    return multiply(g, value, constant(np.full(1, factor, np.float32), "factor"))
