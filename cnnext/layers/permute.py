"""The order of axes: ``Permute``."""

from __future__ import annotations

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.attributes import shape
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Gradients, Layer


class Permute(Layer):
    """The source with its axes in another order, as `numpy.transpose`: axis i of ``dst`` is axis ``axes[i]`` of ``src``.

    Parameters
    ----------
    axes : tuple of int
        A permutation of all axes; the batch stays first, ``axes[0] == 0``.

    Examples
    --------
    ``Permute((0, 3, 1, 2))`` turns (N, H, W, C) into (N, C, H, W).
    """

    type_name = "cnnext/Permute@1"

    axes: tuple[int, ...] = shape()

    def validate(self) -> None:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise self.error("axes", f"be a permutation of 0 to {len(self.axes) - 1}", self.axes)
        if self.axes[:1] != (0,):
            raise self.error("axes", "begin with 0, the batch, which stays first", self.axes)

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != len(self.axes):
            raise self.error("axes", f"name all {len(src)} axes of the source", self.axes, src)
        return tuple(src[axis] for axis in self.axes)

    def is_identity(self, training: bool) -> bool:
        return self.axes == tuple(range(len(self.axes)))

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        inverse = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return Gradients([g.apply1(Permute(inverse, name=f"{self.name}/diff_src"), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        copy_view(b, b.view(node.inputs[0]).permuted(self.axes), b.view(node.output), why=f"axes {self.axes}")
