"""Layers whose outputs are parts of their source: ``SliceSplit``, ``Split``, ``Slice``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from cnnext.graph.graph import Node, Shape
from cnnext.layers.attributes import Attribute, Pair, as_int, fail, integer, pair
from cnnext.layers.attributes import shape as extents
from cnnext_slice_split.boxes import Box, Cut, Range, grid_edges

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


def rows_of(length: int, names: str) -> Any:
    """None, or a tuple of tuples of ``length`` whole numbers, of which the second half bounds the first from above."""
    rule = f"be None or a list of ({names})"

    def check(where: str, name: str, value: Any) -> tuple[tuple[int, ...], ...] | None:
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise fail(where, name, rule, value)
        rows = tuple(tuple(row) if isinstance(row, Sequence) and not isinstance(row, str) else () for row in value)
        if not rows or any(len(row) != length for row in rows):
            raise fail(where, name, rule, value)
        rows = tuple(tuple(as_int(where, name, v, 0) for v in row) for row in rows)
        half = length // 2
        if any(start >= stop for row in rows for start, stop in zip(row[:half], row[half:], strict=True)):
            raise fail(where, name, "end after they begin", value)
        return rows

    return Attribute(check, None)


class SliceSplit(Cut):
    """Parts of images, one output each, without a copy: for branches that learn each region, or channel group, alone.

    Parameters
    ----------
    grid : int or (rows, columns), optional
        Regions of a grid, row by row; their extents differ by one pixel at most.
    boxes : list of (top, left, bottom, right), optional
        Any regions; bottom and right are exclusive. They may overlap.
    channels : list of (start, stop), optional
        Any ranges of channels; they may overlap.

    Notes
    -----
    Exactly one of the three is given. From (N, H, W, C), outputs of (N, h, w, C) or (N, H, W, c). The gradient of a pixel is
    the sum over the parts that hold it. `GridJoin` puts the regions of a grid together again.
    """

    type_name = "slice-split/SliceSplit@1"

    grid: Pair | None = pair(None, optional=True)
    boxes: tuple[tuple[int, int, int, int], ...] | None = rows_of(4, "top, left, bottom, right")
    channels: tuple[tuple[int, int], ...] | None = rows_of(2, "start, stop")

    def validate(self) -> None:
        given = {"grid": self.grid, "boxes": self.boxes, "channels": self.channels}
        if sum(value is not None for value in given.values()) != 1:
            raise self.error("grid", "be given, or `boxes`, or `channels`: one of the three", given)

    @property
    def n_parts(self) -> int:
        if self.grid is not None:
            return self.grid[0] * self.grid[1]
        return len(self.boxes or self.channels or ())

    def cuts(self, src: Shape) -> Sequence[Box]:
        if len(src) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", src)
        whole: Range = (0, None)
        if self.grid is not None:
            return grid_boxes(self, self.grid, src)
        if self.boxes is not None:
            found: list[Box] = [((t, b), (left, right), whole) for t, left, b, right in self.boxes]
            return checked(self, "boxes", self.boxes, found, src)
        assert self.channels is not None
        return checked(self, "channels", self.channels, [(whole, whole, part) for part in self.channels], src)


class Split(Cut):
    """The source cut along one axis, without a copy; the opposite of ``Concat``.

    Parameters
    ----------
    sections : int or tuple of int
        So many equal parts, or the extents of the parts, whose sum is the axis's extent.
    axis : int
        Any but the batch; negative ones count from the last.
    """

    type_name = "slice-split/Split@1"

    sections: int | tuple[int, ...] = Attribute(lambda where, name, v: _sections(where, name, v))  # type: ignore[assignment]
    axis: int = integer(-1)

    @property
    def n_parts(self) -> int:
        return self.sections if isinstance(self.sections, int) else len(self.sections)

    def cuts(self, src: Shape) -> Sequence[Box]:
        if not -len(src) <= self.axis < len(src) or self.axis % len(src) == 0:
            raise self.error("axis", "be an axis of the source and not the batch", self.axis, src)
        axis = self.axis % len(src)
        extent = src[axis]
        if isinstance(self.sections, int):
            if extent is not None and extent % self.sections:
                raise self.error("sections", f"divide the extent {extent}", self.sections, src)
            ranges = grid_edges(extent, self.sections)
        else:
            if extent is not None and sum(self.sections) != extent:
                raise self.error("sections", f"add up to the extent {extent}", self.sections, src)
            ranges = list(pairwise(accumulate(self.sections, initial=0)))
        return [tuple(part if i == axis else (0, None) for i in range(1, len(src))) for part in ranges]

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order, axis = b.layout(src), self.axis % len(src.shape)
        sizes = [v.shape[axis] for v in node.outputs]
        if None in sizes and b.opset < 18:
            b.extents(src)
        inputs, parts = ([], {"num_outputs": len(sizes)}) if None in sizes else ([b.ints(*sizes)], {})
        b.results(node.outputs, "Split", [b.get(src, order), *inputs], order, axis=order.index(axis), **parts)


class Slice(Cut):
    """One box of the source, of any rank, without a copy.

    Parameters
    ----------
    begin : tuple of int
        First index along each axis but the batch.
    size : tuple of int
        Extent along each axis but the batch; -1: to the end.
    """

    type_name = "slice-split/Slice@1"

    begin: tuple[int, ...] = extents()
    size: tuple[int, ...] = extents(minimum=-1)

    def validate(self) -> None:
        if len(self.begin) != len(self.size):
            raise self.error("size", f"have {len(self.begin)} extents, as `begin`", self.size)
        if 0 in self.size:
            raise self.error("size", "have extents of at least 1, or -1", self.size)

    def cuts(self, src: Shape) -> Sequence[Box]:
        if len(src) != len(self.begin) + 1:
            raise self.error("begin", f"have {len(src) - 1} indices, one for each axis but the batch", self.begin, src)
        box = tuple((start, None if n == -1 else start + n) for start, n in zip(self.begin, self.size, strict=True))
        return checked(self, "size", self.size, [box], src)


def grid_boxes(layer: Cut, grid: Pair, src: Shape) -> list[Box]:
    """The regions of a grid over an image, row by row."""
    for extent, parts in zip(src[1:3], grid, strict=True):
        if extent is not None and parts > extent:
            raise layer.error("grid", "leave every region a pixel", grid, src)
    rows, cols = (grid_edges(extent, parts) for extent, parts in zip(src[1:3], grid, strict=True))
    return [(row, col, (0, None)) for row in rows for col in cols]


def checked(layer: Cut, argument: str, value: object, boxes: list[Box], src: Shape) -> list[Box]:
    """The boxes, if all lie within the source and hold something."""
    for box in boxes:
        for extent, (start, stop) in zip(src[1:], box, strict=True):
            if extent is not None and (start >= extent or stop is not None and stop > extent):
                raise layer.error(argument, "lie within the source", value, src)
    return boxes


def _sections(where: str, name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, Iterable) and not isinstance(value, str):
        parts = tuple(as_int(where, name, v, 1) for v in value)
        if not parts:
            raise fail(where, name, "have a part at least", value)
        return parts
    return as_int(where, name, value, 1)
