"""Lowering of resampling: linear, separable maps of an image and their gradients (``src/kernels/resample.pyx``)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from cnnext.graph.graph import Node, Shape
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import TILE_ELEMENTS
from cnnext.layers.layer import Layer

Term = tuple[int, float]


@dataclass(frozen=True)
class AxisMap:
    """How one axis of the result is made: result i is the sum of weight * source[index] over ``terms[i]``.

    Attributes
    ----------
    source : int
        Extent of the source.
    terms : list of list of (index, weight)
        One list per element of the result; an empty one stands for a constant.
    """

    source: int
    terms: list[list[Term]]

    def transposed(self) -> AxisMap:
        """The map of the gradients, from result to source."""
        back: list[list[Term]] = [[] for _ in range(self.source)]
        for i, terms in enumerate(self.terms):
            for index, weight in terms:
                back[index].append((i, weight))
        return AxisMap(len(self.terms), back)

    def tables(self, b: PlanBuilder) -> list[View]:
        """The start of each list, all indices, all weights."""
        flat = [term for terms in self.terms for term in terms]
        return [
            b.constant(np.cumsum([0, *map(len, self.terms)], dtype=np.int64)),
            b.constant(np.array([index for index, _ in flat], np.int64)),
            b.constant(np.array([weight for _, weight in flat], np.float32)),
        ]


class Resample(Layer):
    """Rows and columns of (N, H, W, C) through a linear map each: the gradient of a padding or an upsampling."""

    def __init__(self, rows: AxisMap, cols: AxisMap, name: str):
        super().__init__(name=name)
        self.rows = rows
        self.cols = cols

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], len(self.rows.terms), len(self.cols.terms), shapes[0][3])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_resample(b, b.view(node.inputs[0]), b.view(node.output), self.rows, self.cols)


def lower_resample(b: PlanBuilder, src: View, dst: View, rows: AxisMap, cols: AxisMap, value: float = 0.0) -> None:
    """dst = the two maps of src, both (N, H, W, C); ``value`` where a map has no term."""
    row_size = prod(dst.shape[2:])
    rows_per_tile = max(1, TILE_ELEMENTS // max(row_size, 1))
    sums_rows = any(len(terms) > 1 or terms and terms[0][1] != 1 for terms in rows.terms)
    b.step("resample", [src, *rows.tables(b), *cols.tables(b)], [dst], {"rows": rows_per_tile, "value": value},
           tiles=ceil(dst.shape[0] * dst.shape[1] / rows_per_tile),
           scratch_bytes=4 * prod(src.shape[2:]) if sums_rows else 0,
           why=f"{src.shape[1]}x{src.shape[2]} to {dst.shape[1]}x{dst.shape[2]} pixels")


def check_image(layer: Layer, shape: Shape) -> None:
    """Refuse a source that is no batch of images."""
    if len(shape) != 4:
        raise layer.error("src", "have rank 4, (N, H, W, C)", shape)
