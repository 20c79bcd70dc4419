"""Reductions over any axes: sums, means, norms, products, extrema."""

from __future__ import annotations

from math import nan, prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnext.graph.graph import Graph, Node, Shape, Value, constant
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._reduce import lower_reduction
from cnnext.layers.activation import Clip
from cnnext.layers.attributes import boolean, shape
from cnnext.layers.elementary import Exp, Log, Sign
from cnnext.layers.elementwise import Divide, Equal, Subtract, add, copy_view, multiply, scaled
from cnnext.layers.layer import Gradients, Layer
from cnnext.layers.pooling import lower_global_avg
from cnnext.layers.reshape import ReshapeTo

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

FLOAT_MAX = float(np.finfo(np.float32).max)


class Reduction(Layer):
    """What the reductions share: which axes go, and the shape that is left.

    Attributes
    ----------
    op : str
        What joins the elements; sums are ``after(sum of before(x))``.
    before, after : str
        Elementwise functions.
    empty : float
        The result where there is nothing to reduce, unless it is a sum.
    """

    op: ClassVar[str] = "add"
    before: ClassVar[str] = "identity"
    after: ClassVar[str] = "identity"
    empty: ClassVar[float] = 0.0

    axes: tuple[int, ...] | None = shape(None, minimum=-8, optional=True)
    keepdims: bool = boolean(False)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        reduced = self.reduced(src)
        return tuple(1 if i in reduced else n for i, n in enumerate(src) if self.keepdims or i not in reduced)

    def reduced(self, src: Shape) -> tuple[int, ...]:
        """The axes that go, in order, none negative."""
        rank = len(src)
        axes = range(rank) if self.axes is None else self.axes
        if any(not -rank <= axis < rank for axis in axes):
            raise self.error("axes", f"be axes of the source, from {-rank} to {rank - 1}", self.axes, src)
        positive = sorted({axis % rank for axis in axes})
        if len(positive) != len(axes):
            raise self.error("axes", "name each axis once", self.axes, src)
        return tuple(positive)

    def is_identity(self, training: bool) -> bool:
        return self.axes == () and self.before == self.after == "identity"

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]]:
        reduced = self.reduced(node.inputs[0].shape)
        layer = type(self)(tuple(axes[a] for a in reduced), self.keepdims, name=self.name)
        left = [a for i, a in enumerate(axes) if self.keepdims or i not in reduced]
        return layer, tuple(sorted(left).index(a) for a in left)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy, src = diff_dst[0], node.inputs[0]
        assert dy is not None
        kept = self.kept(src.shape)
        return Gradients([self.spread(g, node, *(with_shape(g, v, kept) for v in (node.output, dy)))])

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        """The gradient of the source; the result and its gradient have the source's rank."""
        raise TypeError(f"{self.where}: the reduction has no gradient.")

    def kept(self, src: Shape) -> Shape:
        """The source's shape with 1 for each reduced axis."""
        reduced = self.reduced(src)
        return tuple(1 if i in reduced else n for i, n in enumerate(src))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        dst = with_kept_axes(b.view(node.output), src.shape, self.reduced(src.shape))
        if src.size == 0 and self.op != "add":
            copy_view(b, b.constant(np.full(1, self.empty, np.float32)).expanded(dst.shape), dst, why="nothing to reduce")
            return
        lower_reduction(b, src, dst, self.op, before=self.before, after=self.after)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order, reduced, name = b.layout(src), self.reduced(src.shape), type(self).__name__
        x, left = b.get(src, order), [axis for axis in order if self.keepdims or axis not in reduced]
        axes, keepdims = [order.index(axis) for axis in reduced], self.keepdims
        if not reduced:     # no axes mean all of them in ONNX
            x, axes, keepdims = b.op("Unsqueeze", x, b.ints(len(order))), [len(order)], False
        inputs, attributes = b.reduction(name, x, axes, keepdims)
        b.result(node.output, name, inputs, tuple(sorted(left).index(axis) for axis in left), **attributes)


class ReduceSum(Reduction):
    """Sum over axes.

    Parameters
    ----------
    axes : tuple of int, optional
        The axes to reduce, counted from the end where negative, the batch (0) included; all of them when missing.
    keepdims : bool
        Whether reduced axes stay, with an extent of 1.
    """

    type_name = "cnnext/ReduceSum@1"

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        return repeated(g, diff_dst, node.inputs[0].shape)


class ReduceMean(Reduction):
    """Mean over axes; of no elements, NaN. Over the rows and columns of images it is `GlobalAvgPool2D`.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceMean@1"

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        return repeated(g, scaled(g, diff_dst, self.share(node)), node.inputs[0].shape)

    def share(self, node: Node) -> float:
        """1 over the number of elements that make one."""
        src = node.inputs[0].shape
        count = prod(src[axis] or 0 for axis in self.reduced(src))
        return 1 / count if count else nan

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        reduced = self.reduced(src.shape)
        dst = with_kept_axes(b.view(node.output), src.shape, reduced)
        if reduced == (1, 2) and len(src.shape) == 4 and src.size:
            lower_global_avg(b, src, dst)
        else:
            lower_reduction(b, src, dst, scale=self.share(node))


class ReduceMax(Reduction):
    """Largest element over axes; of none, minus infinity. In the gradient those that are equal share.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceMax@1"
    op = "maximum"
    empty = -np.inf

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        wins = g.apply1(Equal(name=f"{self.name}/mask"), node.inputs[0], dst)
        count = g.apply1(ReduceSum(self.axes, True, name=f"{self.name}/count"), wins)
        return multiply(g, wins, g.apply1(Divide(name=f"{self.name}/share"), diff_dst, count))


class ReduceMin(ReduceMax):
    """Smallest element over axes; of none, infinity. In the gradient those that are equal share.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceMin@1"
    op = "minimum"
    empty = np.inf


class ReduceL1(Reduction):
    """Sum of magnitudes over axes.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceL1@1"
    before = "abs"

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        return multiply(g, g.apply1(Sign(name=f"{self.name}/sign"), node.inputs[0]), diff_dst)


class ReduceSumSquare(Reduction):
    """Sum of squares over axes.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceSumSquare@1"
    before = "square"

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        return multiply(g, node.inputs[0], scaled(g, diff_dst, 2.0))


class ReduceL2(Reduction):
    """Root of the sum of squares over axes; the gradient of a norm of 0 is 0.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceL2@1"
    before = "square"
    after = "sqrt"

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        # x / norm; where the norm is 0, so is x, and 1 does as a divisor
        zero = g.apply1(Equal(name=f"{self.name}/mask"), dst, constant(np.zeros(1, np.float32)))
        share = g.apply1(Divide(name=f"{self.name}/share"), diff_dst, add(g, dst, zero))
        return multiply(g, node.inputs[0], share)


class ReduceProd(Reduction):
    """Product over axes; of no elements, 1.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceProd@1"
    op = "multiply"
    empty = 1.0

    def spread(self, g: Graph, node: Node, dst: Value, diff_dst: Value) -> Value:
        (src,) = node.inputs
        return g.apply1(ProductBackward(self.reduced(src.shape), f"{self.name}/diff_src"), src, diff_dst)


class ProductBackward(Layer):
    """Gradient of a product from its source and diff_dst of the same rank: each element gets the product of the others."""

    n_inputs = 2

    def __init__(self, axes: tuple[int, ...], name: str):
        super().__init__(name=name)
        self.axes = axes

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, ctx: Any, *src: np.ndarray) -> np.ndarray:
        x, diff_dst = src
        last = tuple(range(x.ndim - len(self.axes), x.ndim))
        moved = np.moveaxis(x, self.axes, last)
        rows = moved.reshape(-1, prod(moved.shape[x.ndim - len(self.axes) :])).astype(np.float64)
        ones = np.ones((len(rows), 1))
        # a quotient by the element itself would fail where it is 0
        before = np.cumprod(np.hstack([ones, rows[:, :-1]]), axis=1)
        after = np.cumprod(np.hstack([ones, rows[:, :0:-1]]), axis=1)[:, ::-1]
        others = np.moveaxis((before * after).reshape(moved.shape), last, self.axes)
        return np.asarray(others * diff_dst, np.float32)


class ReduceLogSumExp(Reduction):
    """``log(sum(exp(x)))`` over axes, without overflow; of no elements, minus infinity.

    Parameters
    ----------
    axes, keepdims
        As in ``ReduceSum``.
    """

    type_name = "cnnext/ReduceLogSumExp@1"

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        # A finite shift, so that infinities stay what they are.
        peak = g.apply1(_Shift(self.axes, True, name=f"{self.name}/max"), *x)
        shift = g.apply1(Clip(-FLOAT_MAX, FLOAT_MAX, name=f"{self.name}/shift"), peak)
        powers = g.apply1(Exp(name=f"{self.name}/exp"), g.apply1(Subtract(name=f"{self.name}/difference"), *x, shift))
        total = g.apply1(ReduceSum(self.axes, True, name=f"{self.name}/sum"), powers)
        result = add(g, g.apply1(Log(name=f"{self.name}/log"), total), shift)
        return result if self.keepdims else with_shape(g, result, self.output_shape(x[0].shape))


class _Shift(ReduceMax):
    """A maximum that cancels in the result and therefore has no gradient."""

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        return Gradients([None])


class Repeat(Layer):
    """The source repeated along its axes of extent 1, to a given shape."""

    def __init__(self, shape: Shape, name: str):
        super().__init__(name=name)
        self.shape = tuple(shape)

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.shape

    def lower(self, b: PlanBuilder, node: Node) -> None:
        dst = b.view(node.output)
        copy_view(b, b.view(node.inputs[0]).expanded(dst.shape), dst, why="repeated")


def repeated(g: Graph, value: Value, shape: Shape) -> Value:
    """Append a value's repetition to a shape of the same rank."""
    return g.apply1(Repeat(shape, f"{value.name}/repeated"), value)


def with_shape(g: Graph, value: Value, shape: Shape) -> Value:
    """The value under another shape."""
    return value if value.shape == tuple(shape) else g.apply1(ReshapeTo(shape, f"{value.name}/reshaped"), value)


def with_kept_axes(dst: View, src_shape: tuple[int, ...], reduced: tuple[int, ...]) -> View:
    """The view of a result with an axis of extent 1 for each reduced one."""
    if len(dst.shape) == len(src_shape):
        return dst
    shape, strides, kept = [], [], iter(zip(dst.shape, dst.strides, strict=True))
    for axis in range(len(src_shape)):
        extent, stride = (1, 1) if axis in reduced else next(kept)
        shape.append(extent)
        strides.append(stride)
    return View(dst.storage, dst.offset, tuple(shape), tuple(strides))
