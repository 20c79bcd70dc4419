"""Regions of a grid put together: ``GridJoin``."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.attributes import Pair, pair
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer
from cnnext_slice_split.boxes import Box, Boxes, Cut, box_view, concrete

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class GridJoin(Layer):
    """The regions of a grid as one image: the opposite of ``SliceSplit(grid)``.

    The producers write into its memory directly, and parts of one source that are joined as they were cut cost nothing.
    Regions of one row of the grid agree in height, those of one column in width, all in batch and channels.

    Parameters
    ----------
    grid : int or (rows, columns)
        The inputs are the regions, row by row.
    """

    type_name = "slice-split/GridJoin@1"
    n_inputs = None

    grid: Pair = pair()

    def output_shape(self, *shapes: Shape) -> Shape:
        heights, widths = self._extents(*shapes)
        batches = [s[0] for s in shapes if s[0] is not None]
        return (batches[0] if batches else None, _total(heights), _total(widths), shapes[0][3])

    def _extents(self, *shapes: Shape) -> tuple[list[int | None], list[int | None]]:
        """Heights of the grid's rows and widths of its columns."""
        rows, cols = self.grid
        if len(shapes) != rows * cols:
            raise self.error("inputs", f"be {rows * cols} values, one for each region of the grid", len(shapes))
        if any(len(s) != 4 for s in shapes):
            raise self.error("inputs", "have rank 4, (N, H, W, C)", shapes)
        lines = {"batch": [shapes], "channels": [shapes],
                 "height": [shapes[i * cols : (i + 1) * cols] for i in range(rows)],
                 "width": [shapes[i::cols] for i in range(cols)]}
        found: dict[str, list[int | None]] = {}
        for what, axis in {"batch": 0, "channels": 3, "height": 1, "width": 2}.items():
            known = [{s[axis] for s in line if s[axis] is not None} for line in lines[what]]
            if any(len(extents) > 1 for extents in known):
                group = {"height": "in each row", "width": "in each column"}.get(what, "in all regions")
                raise self.error("inputs", f"have the same {what} {group} of the grid", shapes)
            found[what] = [extents.pop() if extents else None for extents in known]
        return found["height"], found["width"]

    def boxes(self, *shapes: Shape) -> list[Box]:
        """Where each region lies in the result; extents are known."""
        heights, widths = self._extents(*shapes)
        rows, cols = (list(pairwise(accumulate((n or 0 for n in line), initial=0))) for line in (heights, widths))
        return [(row, col, (0, None)) for row in rows for col in cols]

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value | None:
        # All parts of one source, in their places: the source itself. In memory they lie where they lay.
        maker = x[0].node
        if maker is None or not isinstance(maker.layer, Cut) or list(x) != maker.outputs:
            return None
        (src,) = maker.inputs
        mine = [concrete(src.shape, box) for box in self.boxes(*(v.shape for v in x))]
        same = mine == [concrete(src.shape, box) for box in maker.layer.cuts(src.shape)]
        return src if same and self.infer_shapes(*(v.shape for v in x))[0] == src.shape else None

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (dy,) = diff_dst
        assert dy is not None
        return Gradients(g.apply(Boxes(self.boxes(*(v.shape for v in node.inputs)), f"{self.name}/diff_src"), dy))

    def place(self, node: Node, dst: View) -> list[View]:
        return [box_view(dst, box) for box in self.boxes(*(v.shape for v in node.inputs))]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        for value, target in zip(node.inputs, self.place(node, b.view(node.output)), strict=True):
            if b.view(value) != target:
                copy_view(b, b.view(value), target, why="join")

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        order, cols = b.layout(*node.inputs), self.grid[1]
        parts = [b.get(v, order) for v in node.inputs]
        lines = [parts[i : i + cols] for i in range(0, len(parts), cols)]
        whole = [b.op("Concat", *line, axis=order.index(2)) if cols > 1 else line[0] for line in lines]
        b.result(node.output, "Concat", whole, order, axis=order.index(1))


def _total(extents: list[int | None]) -> int | None:
    known = [n for n in extents if n is not None]
    return sum(known) if len(known) == len(extents) else None
