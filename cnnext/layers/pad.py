"""More elements around a value, on any axes: ``Pad``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnnext._native.executor import BINARY
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import row_step
from cnnext.layers.attributes import choice, number, shape
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Pad(Layer):
    """The source with elements before and after it on any axes, the batch included, as `numpy.pad`.

    Parameters
    ----------
    pads : tuple of int
        How many come before each axis, then how many after each; a negative number takes elements away.
    mode : "constant", "reflect", "edge" or "wrap"
        Fill with ``value``; mirror at the outermost element without repeating it; repeat the outermost element; go on
        at the other end. A mirror or the other end gives what there is, no more.
    value : float
        For ``mode="constant"``.
    """

    type_name = "cnnext/Pad@1"

    pads: tuple[int, ...] = shape(minimum=-(2**31))
    mode: str = choice("constant", "reflect", "edge", "wrap")
    value: float = number(0.0, infinite=True)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(self.pads) != 2 * len(src):
            raise self.error("pads", f"be {2 * len(src)} numbers, before and after each axis", self.pads, src)
        for size, (before, after) in zip(src, self.pairs, strict=True):
            if size is None:
                continue
            left = size + min(before, 0) + min(after, 0)
            most = {"constant": max(before, after), "reflect": left - 1, "edge": max(before, after) if left else 0,
                    "wrap": left}[self.mode]
            if left < 0 or max(before, after, 0) > max(most, 0):
                raise self.error("pads", f"be within what mode {self.mode!r} finds in the source", self.pads, src)
        return tuple(None if n is None else n + sum(pair) for n, pair in zip(src, self.pairs, strict=True))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Before and after of each axis."""
        rank = len(self.pads) // 2
        return list(zip(self.pads[:rank], self.pads[rank:], strict=True))

    def is_identity(self, training: bool) -> bool:
        return not any(self.pads)

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
        # axis i of P(x) is axis axes[i] of x
        order = sorted(range(len(axes)), key=lambda i: axes[i])
        moved = [self.pairs[i] for i in order]
        pads = (*(before for before, _ in moved), *(after for _, after in moved))
        return Pad(pads, self.mode, self.value, name=self.name), axes

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(PadBackward(self, node.inputs[0].shape), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        dst = b.view(node.output)
        src, done = _common(b.view(node.inputs[0]), dst, self.pairs)
        if self.mode == "constant":
            # before the copy: what is computed from constants alone first counts as computed once
            self._fill(b, dst, src.shape)
        copy_view(b, src, done, why="inside")
        if self.mode == "constant":
            return
        for axis, slabs in self.slabs(dst, src.shape):
            for slab, at, size in slabs:
                copy_view(b, self.source_of(done, axis, at, size), slab, why=f"{self.mode}, axis {axis}")
            done = _grown(dst, axis, src.shape, self.pairs)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        x, pairs = b.get(src, order), [self.pairs[axis] for axis in order]
        taken = {i: (max(-before, 0), min(after, 0) or None) for i, (before, after) in enumerate(pairs)
                 if min(before, after) < 0}
        if taken:
            x = b.cut(x, taken)
        added = [(max(before, 0), max(after, 0)) for before, after in pairs]
        if self.mode == "wrap" and b.opset < 19:
            self._wrap_in_onnx(b, node, x, order, added)
            return
        amounts = b.ints(*(before for before, _ in added), *(after for _, after in added))
        value = [b.scalar(self.value)] if self.mode == "constant" and self.value else []
        b.result(node.output, "Pad", [x, amounts, *value], order, mode=self.mode)

    def _wrap_in_onnx(self, b: OnnxBuilder, node: Node, x: str, order: tuple[int, ...],
                      added: Sequence[tuple[int, int]]) -> None:
        for axis, (before, after) in enumerate(added):
            parts = [b.cut(x, {axis: (-before, None)})] if before else []
            parts += [x, *([b.cut(x, {axis: (0, after)})] if after else [])]
            x = b.op("Concat", *parts, axis=axis) if len(parts) > 1 else x
        b.result(node.output, "Identity", [x], order)

    def _fill(self, b: PlanBuilder, dst: View, inside: Sequence[int]) -> None:
        value = b.constant(np.full(1, self.value, np.float32))
        for axis, slabs in self.slabs(dst, inside):
            for slab, _, _ in slabs:
                copy_view(b, value.expanded(slab.shape), slab, why=f"constant, axis {axis}")

    def slabs(self, dst: View, inside: Sequence[int]) -> list[tuple[int, list[tuple[View, str, int]]]]:
        """For each padded axis what is added before and after: axes before it are whole already, those after it are not."""
        added = []
        for axis, (before, after) in enumerate(self.pairs):
            view = dst
            for later in range(axis + 1, len(inside)):
                first = max(self.pairs[later][0], 0)
                view = view.sliced(later, first, first + inside[later])
            end = max(before, 0) + inside[axis]
            slabs = [(view.sliced(axis, 0, before), "before", before)] if before > 0 else []
            slabs += [(view.sliced(axis, end, end + after), "after", after)] if after > 0 else []
            if slabs:
                added.append((axis, slabs))
        return added

    def source_of(self, done: View, axis: int, at: str, size: int) -> View:
        """Where a slab's elements come from, unless they are constant, as a view of the slab's shape."""
        extent, stride = done.shape[axis], done.strides[axis]
        if self.mode == "edge":
            outermost = done.sliced(axis, 0, 1) if at == "before" else done.sliced(axis, extent - 1, extent)
            return outermost.expanded((*done.shape[:axis], size, *done.shape[axis + 1 :]))
        if self.mode == "wrap":
            return done.sliced(axis, extent - size, extent) if at == "before" else done.sliced(axis, 0, size)
        first = size if at == "before" else extent - 2
        one = done.sliced(axis, first, first + 1)
        extents = (*done.shape[:axis], size, *done.shape[axis + 1 :])
        return View(done.storage, one.offset, extents, (*done.strides[:axis], -stride, *done.strides[axis + 1 :]))


class PadBackward(Layer):
    """Gradient of ``Pad``: what each copy of an element received, added up, the last axis that was padded first."""

    def __init__(self, pad: Pad, src_shape: Shape):
        super().__init__(name=f"{pad.name}/diff_src")
        self.pad = pad
        self.src_shape = src_shape

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.src_shape

    def lower(self, b: PlanBuilder, node: Node) -> None:
        pad, diff_src = self.pad, b.view(node.output)
        diff_dst = b.view(node.inputs[0])
        if min(pad.pads) < 0:
            copy_view(b, b.constant(np.zeros(1, np.float32)).expanded(diff_src.shape), diff_src, why="not read")
        if pad.mode != "constant":
            whole = b.temp(diff_dst.shape)
            copy_view(b, diff_dst, whole, why="to be added to")
            diff_dst = whole
        target, inside = _common(diff_src, diff_dst, pad.pairs)
        if pad.mode != "constant":
            self._add_slabs(b, diff_dst, target.shape)
        copy_view(b, inside, target, why="inside")

    def _add_slabs(self, b: PlanBuilder, whole: View, inside: Sequence[int]) -> None:
        steps, done = [], _common(View(whole.storage, 0, tuple(inside), (1,) * len(inside)), whole, self.pad.pairs)[1]
        for axis, slabs in self.pad.slabs(whole, inside):
            steps += [(axis, done, slab) for slab in slabs]
            done = _grown(whole, axis, inside, self.pad.pairs)
        for axis, done, (slab, at, size) in reversed(steps):
            source = self.pad.source_of(done, axis, at, size)
            # of an edge all go to one element, so one after the other
            pieces = range(size) if source.strides[axis] == 0 else [slice(None)]
            for piece in pieces:
                first, last = (piece, piece + 1) if isinstance(piece, int) else (0, size)
                views = [v.sliced(axis, first, last) for v in (source, slab)]
                row_step(b, "binary", views, [views[0]], {"op": BINARY["add"]}, why=f"{self.pad.mode}, axis {axis}")


def _common(src: View, dst: View, pairs: Sequence[tuple[int, int]]) -> tuple[View, View]:
    """What source and padded result have in common, as a view of each."""
    for axis, (before, after) in enumerate(pairs):
        size = src.shape[axis]
        src = src.sliced(axis, max(-before, 0), size - max(-after, 0))
        dst = dst.sliced(axis, max(before, 0), dst.shape[axis] - max(after, 0))
    return src, dst


def _grown(dst: View, axis: int, inside: Sequence[int], pairs: Sequence[tuple[int, int]]) -> View:
    """What is filled once ``axis`` is: the axes up to it are whole, of the others only the inside is there."""
    view = dst
    for later in range(axis + 1, len(inside)):
        first = max(pairs[later][0], 0)
        view = view.sliced(later, first, first + inside[later])
    return view
