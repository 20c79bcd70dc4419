"""The order of axes: ``Transpose``, and ``Permute``, which leaves the batch first."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.graph import FLOAT32, Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import TILE_ELEMENTS, coalesce
from cnnext.layers.attributes import shape
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

BLOCK = 16          # rows that the kernel transposes at once: one cache line of the source
TILE_COLS = 2048    # so that a tile of few rows is long, and a long one is cut


class Transpose(Layer):
    """The source with its axes in another order, as `numpy.transpose`: axis i of dst is axis ``axes[i]`` of src.

    Parameters
    ----------
    axes : tuple of int
        A permutation of all axes, the batch included. Any element type.
    """

    type_name = "cnnext/Transpose@1"

    axes: tuple[int, ...] = shape()

    def validate(self) -> None:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise self.error("axes", f"be a permutation of 0 to {len(self.axes) - 1}", self.axes)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != len(self.axes):
            raise self.error("axes", f"name all {len(src)} axes of the source", self.axes, src)
        return tuple(src[axis] for axis in self.axes)

    def output_dtypes(self, *dtypes: np.dtype) -> Sequence[np.dtype]:
        return dtypes

    def is_identity(self, training: bool) -> bool:
        return self.axes == tuple(range(len(self.axes)))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(Transpose(inverse(self.axes), name=f"{self.name}/diff_src"), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        transpose_view(b, b.view(node.inputs[0]).permuted(self.axes), b.view(node.output))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        b.alias(node.output, node.inputs[0], self.axes)


class Permute(Transpose):
    """A `Transpose` of what each sample holds: the batch stays first.

    Parameters
    ----------
    axes : tuple of int
        A permutation of all axes with ``axes[0] == 0``.

    Examples
    --------
    ``Permute((0, 3, 1, 2))`` turns (N, H, W, C) into (N, C, H, W).
    """

    type_name = "cnnext/Permute@1"

    def validate(self) -> None:
        super().validate()
        if self.axes[:1] != (0,):
            raise self.error("axes", "begin with 0, the batch, which stays first", self.axes)


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes ``axes``."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


def transpose_view(b: PlanBuilder, src: View, dst: View) -> None:
    """Append the copy of a permuted view: in blocks where the source is contiguous along another axis than ``dst``."""
    if dst.storage.dtype != FLOAT32:
        copy_view(b, src, dst, why="transpose")
        return
    source, target = coalesce([src, dst])
    *outer, last = range(len(target.shape))
    contiguous = [axis for axis in outer if source.strides[axis] == 1]
    if target.strides[last] != 1 or source.strides[last] == 1 or not contiguous:
        copy_view(b, src, dst, why="transpose")
        return
    outer.remove(contiguous[0])
    axes = (*outer, contiguous[0], last)
    source, target = source.permuted(axes), target.permuted(axes)
    n_rows, n_cols = target.shape[-2:]
    cols = min(n_cols, TILE_COLS)
    rows = -(-TILE_ELEMENTS // cols // BLOCK) * BLOCK
    b.step("transpose", [source], [target], {"rows": rows, "cols": cols},
           tiles=prod(target.shape[:-2]) * ceil(n_rows / rows) * ceil(n_cols / cols),
           why=f"{prod(target.shape[:-2])} x ({n_cols}, {n_rows}) transposed")
