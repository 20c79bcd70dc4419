"""Values one after the other along an axis: ``Concat``, and ``Narrow``, the slices of its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.attributes import integer
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Concat(Layer):
    """Values one after the other along an axis; the others must agree. The producers write into its memory directly.

    Parameters
    ----------
    axis : int
        Any but the batch; negative ones count from the last.
    """

    type_name = "cnnext/Concat@1"
    n_inputs = None

    joins_batches: ClassVar[bool] = False

    axis: int = integer(-1)

    def output_shape(self, *shapes: Shape) -> Shape:
        rank = len(shapes[0])
        if any(len(s) != rank for s in shapes):
            raise self.error("inputs", "have one rank", tuple(shapes))
        if not -rank <= self.axis < rank:
            raise self.error("axis", f"be an axis of its sources, from {-rank} to {rank - 1}", self.axis, *shapes)
        axis = self.axis % rank
        if axis == 0 and not self.joins_batches:
            raise self.error("axis", "not be the batch", self.axis, *shapes)
        out: list[int | None] = []
        for i, extents in enumerate(zip(*shapes, strict=True)):
            known = [n for n in extents if n is not None]
            if i == axis:
                out.append(sum(known) if len(known) == len(extents) else None)
                continue
            if len(set(known)) > 1:
                raise self.error("inputs", f"agree in all axes but {self.axis}", tuple(shapes))
            out.append(known[0] if known else None)
        return tuple(out)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        axis = self.axis % len(dy.shape)
        return Gradients([
            g.apply1(Narrow(axis, start, x.shape[axis] or 0, f"{self.name}/diff_src"), dy)
            for x, start in zip(node.inputs, self._starts(node), strict=True)
        ])

    def place(self, node: Node, dst: View) -> list[View]:
        axis = self.axis % len(dst.shape)
        return [dst.sliced(axis, start, start + (x.shape[axis] or 0))
                for x, start in zip(node.inputs, self._starts(node), strict=True)]

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]] | None:
        return Join(axes[self.axis], name=self.name), axes

    def _starts(self, node: Node) -> list[int]:
        return list(accumulate((x.shape[self.axis] or 0 for x in node.inputs[:-1]), initial=0))

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        if len(set(dtypes)) > 1:
            raise TypeError(message(self.where, "inputs", "have one dtype", [str(d) for d in dtypes]))
        return dtypes[:1]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        for x, target in zip(node.inputs, self.place(node, b.view(node.output)), strict=True):
            if b.view(x) != target:
                copy_view(b, b.view(x), target, why="concat")

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        order = b.layout(*node.inputs)
        b.result(node.output, "Concat", [b.get(v, order) for v in node.inputs], order,
                 axis=order.index(self.axis % len(order)))


class Join(Concat):
    """A concatenation along any axis, the first one included."""

    joins_batches = True


class Narrow(Layer):
    """``extent`` elements of one axis from ``start`` on, in the source's memory."""

    def __init__(self, axis: int, start: int, extent: int, name: str):
        super().__init__(name=name)
        self.axis = axis
        self.start = start
        self.extent = extent

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        return (*src[: self.axis], self.extent, *src[self.axis + 1 :])

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return dtypes

    def view(self, node: Node, src: View) -> View:
        return src.sliced(self.axis, self.start, self.start + self.extent)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst = self.view(node, b.view(node.inputs[0])), b.view(node.output)
        if src != dst:
            copy_view(b, src, dst)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        ranges = {order.index(self.axis): (self.start, self.start + self.extent)}
        b.result(node.output, *b.slice(b.get(src, order), ranges), order)
