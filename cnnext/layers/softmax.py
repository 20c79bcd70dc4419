"""Softmax and its logarithm: ``Softmax``, ``LogSoftmax``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import row_step
from cnnext.layers.attributes import integer
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class RowFunction(Layer):
    """What the functions of all elements along one axis share."""

    kernel: ClassVar[str] = ""

    axis: int = integer(-1)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if not -len(src) <= self.axis < len(src):
            raise self.error("axis", "be an axis of the source", self.axis, src)
        return src

    def commuted(self, node: Node, axes: tuple[int, ...]) -> tuple[Layer, tuple[int, ...]] | None:
        return type(self)(axes[self.axis], name=self.name), axes

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        backward = RowFunctionBackward(f"{self.kernel}_backward", self.axis, self.name)
        return Gradients([g.apply1(backward, node.output, dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        _lower_along(b, self.kernel, self.axis, [b.view(node.inputs[0])], b.view(node.output))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        b.result(node.output, type(self).__name__, [b.get(src, order)], order,
                 axis=order.index(self.axis % len(src.shape)))


class Softmax(RowFunction):
    """``exp(x_i) / sum over j of exp(x_j)`` along one axis; computed relative to the largest, so nothing overflows.

    Parameters
    ----------
    axis : int
        The last by default: classes or channels.
    """

    type_name = "cnnext/Softmax@1"
    kernel = "softmax"


class LogSoftmax(RowFunction):
    """``x_i - log(sum over j of exp(x_j))`` along one axis; exact where `Softmax` rounds to 0.

    Parameters
    ----------
    axis : int
        The last by default: classes or channels.
    """

    type_name = "cnnext/LogSoftmax@1"
    kernel = "log_softmax"


class RowFunctionBackward(Layer):
    """Gradient of a row function: inputs its result and diff_dst."""

    n_inputs = 2

    def __init__(self, kernel: str, axis: int, name: str):
        super().__init__(name=f"{name}/diff_src")
        self.kernel = kernel
        self.axis = axis

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        _lower_along(b, self.kernel, self.axis, [b.view(v) for v in node.inputs], b.view(node.output))


def _lower_along(b: PlanBuilder, kernel: str, axis: int, src: Sequence[View], dst: View) -> None:
    """Append a kernel of contiguous rows along any axis: one that is not the last is copied there and back."""
    rank = len(dst.shape)
    axis %= rank
    if axis == rank - 1:
        row_step(b, kernel, src, [dst], why="whole rows", whole_rows=True)
        return
    axes = (*(a for a in range(rank) if a != axis), axis)
    rows = [b.temp(view.permuted(axes).shape) for view in src]
    for view, row in zip(src, rows, strict=True):
        copy_view(b, view.permuted(axes), row, why=f"axis {axis} last")
    result = b.temp(rows[0].shape)
    row_step(b, kernel, rows, [result], why="whole rows", whole_rows=True)
    copy_view(b, result, dst.permuted(axes), why=f"axis {axis} back")
