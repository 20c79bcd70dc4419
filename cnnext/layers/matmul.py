"""Products of matrices: ``MatMul``."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._taps import MIN_TILE_MACS, PANEL_BLOCK_BYTES, TILE_MACS, TILES_WANTED, panel_vectors
from cnnext.layers.attributes import boolean
from cnnext.layers.elementwise import broadcast_shape, copy_view, reduce_to
from cnnext.layers.layer import Gradients, Layer
from cnnext.layers.reshape import ReshapeTo

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class MatMul(Layer):
    """Product of two values, as `numpy.matmul`: matrices on the last two axes, the others broadcast.

    A value of rank 1 is a row on the left, a column on the right; the axis that this adds is dropped again. Right-hand
    matrices that are constant are packed once.

    Parameters
    ----------
    transpose_a, transpose_b : bool
        Whether the matrices of the left, the right value are transposed first.
    """

    type_name = "cnnext/MatMul@1"
    n_inputs = 2

    transpose_a: bool = boolean(False)
    transpose_b: bool = boolean(False)

    def output_shape(self, *shapes: Shape) -> Shape:
        a, b = shapes
        if not a or not b or (len(a) == 1 and self.transpose_a) or (len(b) == 1 and self.transpose_b):
            raise self.error("inputs", "be matrices, or vectors that are not transposed", shapes)
        (m, k), (rows, n) = self._matrix(a, 0), self._matrix(b, 1)
        if k is not None and rows is not None and k != rows:
            raise self.error("inputs", f"agree: {k} columns on the left, {rows} rows on the right", shapes)
        batch = broadcast_shape(self, [a[:-2], b[:-2]])
        return (*batch, *((m,) if len(a) > 1 else ()), *((n,) if len(b) > 1 else ()))

    def _matrix(self, shape: Shape, side: int) -> tuple[int | None, int | None]:
        """Rows and columns of the matrices of one value as they are multiplied."""
        if len(shape) == 1:
            return (1, shape[0]) if side == 0 else (shape[0], 1)
        transposed = (self.transpose_a, self.transpose_b)[side]
        return (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value | None:
        a, b = x
        if len(a.shape) > 1 and len(b.shape) > 1:
            return None
        if len(a.shape) == 1:
            a = g.apply1(ReshapeTo((1, *a.shape), f"{self.name}/row"), a)
        if len(b.shape) == 1:
            b = g.apply1(ReshapeTo((*b.shape, 1), f"{self.name}/column"), b)
        product = g.apply1(MatMul(self.transpose_a, self.transpose_b, name=f"{self.name}/matrices"), a, b)
        return g.apply1(ReshapeTo(self.output_shape(x[0].shape, x[1].shape), f"{self.name}/dropped"), product)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (a, b), (dy,) = node.inputs, diff_dst
        assert dy is not None
        ta, tb = self.transpose_a, self.transpose_b

        # With A' and B' the matrices as they are multiplied: dA' = dY B'^T, dB' = A'^T dY.
        def product(left: Value, right: Value, left_t: bool, right_t: bool, side: str) -> Value:
            return g.apply1(MatMul(left_t, right_t, name=f"{self.name}/diff_{side}"), left, right)

        diff_a = product(b, dy, tb, True, "a") if ta else product(dy, b, False, not tb, "a")
        diff_b = product(dy, a, True, ta, "b") if tb else product(a, dy, not ta, False, "b")
        return Gradients([reduce_to(g, diff_a, a.shape), reduce_to(g, diff_b, b.shape)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        left, right = (_with_unit_stride(b, b.view(v)) for v in node.inputs)
        dst = b.view(node.output)
        left = _swapped(left) if self.transpose_a else left
        right = _swapped(right) if self.transpose_b else right
        if prod(right.shape[:-2]) == 1:
            left, right, dst = _as_one_product(left, right, dst)
        lower_matmul(b, left, right, dst)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        inputs = []
        for value, transposed in zip(node.inputs, (self.transpose_a, self.transpose_b), strict=True):
            *batch, rows, cols = range(len(value.shape)) if len(value.shape) > 1 else (0, 0)
            inputs.append(b.get(value, (*batch, cols, rows)) if transposed else b.get(value))
        b.result(node.output, "MatMul", inputs)

    def macs(self, node: Node) -> int:
        k = self._matrix(node.inputs[0].shape, 0)[1]
        return prod(n or 1 for n in node.output.shape) * (k or 1)


def lower_matmul(b: PlanBuilder, left: View, right: View, dst: View) -> None:
    """dst (..., M, N) = left (..., M, K) right (..., K, N); matrices may be walked either way, batch axes broadcast."""
    (m, k), n = left.shape[-2:], right.shape[-1]
    nv = panel_vectors(b, n)
    width = nv * b.vl
    panels, batches = ceil(n / width), prod(dst.shape[:-2])
    packed = b.temp((*right.shape[:-2], panels * max(k, 1) * width))
    b.step("matmul_pack", [right], [packed], dict(K=k, N=n, nv=nv, panels=panels, k_stride=right.strides[-2],
                                                  n_stride=right.strides[-1]),
           tiles=prod(right.shape[:-2]) * panels, why=f"panels of {width} columns")
    k_block = max(1, PANEL_BLOCK_BYTES // (4 * width))
    macs = min(TILE_MACS, max(batches * m * k * panels * width // TILES_WANTED, MIN_TILE_MACS))
    full = b.tile_rows[nv - 1]
    rows = min(m, max(full, macs // (max(k, 1) * width) // full * full))
    batch = dst.shape[:-2]
    params = dict(M=m, K=k, N=n, nv=nv, panels=panels, rows=max(rows, 1), k_block=k_block, m_stride=left.strides[-2],
                  k_stride=left.strides[-1])
    b.step("matmul", [left.expanded((*batch, *left.shape[-2:])), packed.expanded((*batch, packed.shape[-1]))], [dst], params,
           tiles=batches * ceil(m / max(rows, 1)) * panels, macs=batches * m * k * n,
           why=f"{batches} x ({m}, {k}) ({k}, {n}), {rows} rows a tile")


def _swapped(view: View) -> View:
    rank = len(view.shape)
    return view.permuted((*range(rank - 2), rank - 1, rank - 2))


def _with_unit_stride(b: PlanBuilder, view: View) -> View:
    """The view, or a copy of it where its last axis is not contiguous (one channel of several)."""
    if view.strides[-1] == 1:
        return view
    dense = b.temp(view.shape)
    copy_view(b, view, dense, why="made contiguous")
    return dense


def _as_one_product(left: View, right: View, dst: View) -> tuple[View, View, View]:
    """With one right-hand matrix all left-hand ones are rows of a single one, where their strides allow."""
    matrix = View(right.storage, right.offset, right.shape[-2:], right.strides[-2:])
    count = prod(left.shape[:-1])
    if left.strides[-1] == 1 and count == prod(dst.shape[:-1]):
        flat_left, flat_dst = left.reshaped((count, left.shape[-1])), dst.reshaped((count, dst.shape[-1]))
        if flat_left is not None and flat_dst is not None:
            return flat_left, matrix, flat_dst
    return left, right, dst
