"""The operators that losses, penalties and optimizers are made of: one number of all elements, and the gradients of it.

A sum is that of tiles, added up in their order, so that its bits do not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import FLOAT32, Graph, Node, Shape, Value
from cnnext.layers._rows import TILE_ELEMENTS, coalesce
from cnnext.layers.elementwise import multiply, scaled
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.graph.memory import View
    from cnnext.graph.plan import PlanBuilder

# The smallest probability whose logarithm is taken: a probability of 0 must give a large loss, not an infinite one.
SMALLEST_PROBABILITY = 1e-7


class _LossNode(Layer):
    """What the operators of losses share: (prediction, target) to a number of shape (1,)."""

    n_inputs = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return (1,)

    def output_dtypes(self, *dtypes: np.dtype) -> list[np.dtype]:
        return [FLOAT32]


class _LossBackward(Layer):
    """(prediction, target, gradient of the loss) to the gradient of the prediction."""

    n_inputs = 3

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def output_dtypes(self, *dtypes: np.dtype) -> list[np.dtype]:
        return [FLOAT32]


class CrossEntropy(_LossNode):
    """-log(probability of the label), mean over all labels: inputs scores (N, ..., K) and labels (N, ...)."""

    def __init__(self, from_logits: bool):
        super().__init__(name="cross_entropy")
        self.from_logits = from_logits

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(CrossEntropyBackward(self.from_logits), *node.inputs, dy), None])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        scores, labels = _rows_and_labels(b, node)
        rows, tiles = _row_tiles(scores.shape)
        _sum_of_tiles(b, "cross_entropy", [scores, labels], b.view(node.output), tiles, 1.0 / labels.size,
                      {"rows": rows, "from_logits": self.from_logits, "smallest": SMALLEST_PROBABILITY},
                      scratch_bytes=4 * scores.shape[-1])


class CrossEntropyBackward(_LossBackward):
    """Gradient of ``CrossEntropy`` with respect to its scores."""

    def __init__(self, from_logits: bool):
        super().__init__(name="cross_entropy/diff_src")
        self.from_logits = from_logits

    def lower(self, b: PlanBuilder, node: Node) -> None:
        scores, labels = _rows_and_labels(b, node)
        rows, tiles = _row_tiles(scores.shape)
        b.step("cross_entropy_backward", [scores, labels, b.view(node.inputs[2])], [b.view(node.output)],
               {"rows": rows, "from_logits": self.from_logits, "smallest": SMALLEST_PROBABILITY}, tiles=tiles,
               why="softmax - one-hot" if self.from_logits else "-1 / probability of the label")


class OneHot(Layer):
    """Labels (N, ...) to rows (N, ..., K) that are 1 at the label, else 0."""

    def __init__(self, classes: int):
        super().__init__(name="one_hot")
        self.classes = classes

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.classes)

    def output_dtypes(self, *dtypes: np.dtype) -> list[np.dtype]:
        return [FLOAT32]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        labels, dst = b.view(node.inputs[0]), b.view(node.output)
        assert labels.is_dense, "labels are an input of the graph"
        rows, tiles = _row_tiles(dst.shape)
        b.step("one_hot", [labels], [dst], {"rows": rows}, tiles=tiles, why=f"{self.classes} classes")


class SquaredError(_LossNode):
    """(prediction - target)^2, mean over all elements."""

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(SquaredErrorBackward(name=f"{self.name}/diff_src"), *node.inputs, dy), None])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        views = _unit_rows([b.view(v) for v in node.inputs])
        rows, chunk, tiles = _chunk_tiles(views[0].shape)
        _sum_of_tiles(b, "squared_error", views, b.view(node.output), tiles, 1.0 / views[0].size,
                      {"rows": rows, "chunk": chunk}, scratch_bytes=4 * chunk)


class SquaredErrorBackward(_LossBackward):
    """Gradient of ``SquaredError`` with respect to the prediction."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        pred, target, diff_dst = (b.view(v) for v in node.inputs)
        pred, target, dst = _unit_rows([pred, target, b.view(node.output)])
        rows, chunk, tiles = _chunk_tiles(pred.shape)
        b.step("squared_error_backward", [pred, target, diff_dst], [dst], {"rows": rows, "chunk": chunk}, tiles=tiles)


def _rows_and_labels(b: PlanBuilder, node: Node) -> tuple[View, View]:
    labels = b.view(node.inputs[1])
    assert labels.is_dense, "labels are an input of the graph"
    return b.view(node.inputs[0]), labels


def _row_tiles(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows of a tile, tiles: whole rows."""
    rows = max(1, TILE_ELEMENTS // max(shape[-1], 1))
    return rows, ceil(prod(shape[:-1]) / rows)


def _unit_rows(views: list[View]) -> list[View]:
    """The views with merged axes and rows whose elements are neighbours."""
    merged = coalesce(views)
    if all(v.strides[-1] == 1 for v in merged):
        return merged
    return [replace(v, shape=(*v.shape, 1), strides=(*v.strides, 1)) for v in merged]


def _chunk_tiles(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows of a tile, elements of a row in a tile, tiles."""
    chunk = min(max(shape[-1], 1), TILE_ELEMENTS)
    rows = max(1, TILE_ELEMENTS // chunk)
    return rows, chunk, ceil(prod(shape[:-1]) / rows) * ceil(shape[-1] / chunk)


def _sum_of_tiles(b: PlanBuilder, kernel: str, src: list[View], dst: View, tiles: int, scale: float,
                  params: dict[str, float], scratch_bytes: int) -> None:
    partial = b.temp((tiles,))
    b.step(kernel, src, [partial], params, tiles=tiles, scratch_bytes=scratch_bytes, why=f"{tiles} partial sums")
    b.step("sum_losses", [partial], [dst], {"scale": scale}, why="in order of the tiles")


def lower_sum_squares(b: PlanBuilder, src: View, dst: View) -> None:
    """Append the sum of the squares of all elements to ``dst``, shape (1,): that of the tiles, in their order."""
    (view,) = _unit_rows([src])
    rows, chunk, tiles = _chunk_tiles(view.shape)
    _sum_of_tiles(b, "sum_squares", [view], dst, tiles, 1.0, {"rows": rows, "chunk": chunk}, scratch_bytes=0)


class SumSquares(Layer):
    """Sum of the squares of all elements, shape (1,)."""

    def output_shape(self, *shapes: Shape) -> Shape:
        return (1,)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([multiply(g, node.inputs[0], scaled(g, dy, 2.0))])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_sum_squares(b, b.view(node.inputs[0]), b.view(node.output))
