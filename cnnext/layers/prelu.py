"""PReLU: the leaky rectifier whose slope is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._algorithms import TILES_WANTED, lower_sum_shards
from cnnext.layers._rows import _coalesce_leading, row_step
from cnnext.layers.attributes import data_format
from cnnext.layers.layer import Gradients, Layer, ParameterSpec

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

SHARD_ELEMENTS = 16384


class PReLU(Layer):
    """``x`` where it is positive, else ``slope[c] * x``: one slope per channel, shared by all positions.

    Parameters
    ----------
    data_format : "channels_last" or "channels_first"

    Weights
    -------
    slope (C,), 0.25 at first

    References
    ----------
    He et al. 2015, Delving deep into rectifiers.
    """

    type_name = "cnnext/PReLU@1"

    data_format: str = data_format()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return {"slope": ParameterSpec((self.channels(shapes[0]),), "quarter")}

    def channels(self, shape: Shape) -> int:
        """Channels of the source, checked."""
        if len(shape) < 2:
            raise self.error("src", "have rank 2 at least, (N, ..., C)", shape)
        channels = shape[-1]
        if not channels:
            raise self.error("src", "have a known number of channels", shape)
        return channels

    def output_shape(self, *shapes: Shape) -> Shape:
        self.channels(shapes[0])
        return shapes[0]

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        diff_src, diff_slope = g.apply(PReLUBackward(self.name), node.inputs[0], node.weights["slope"], dy)
        return Gradients([diff_src], {"slope": diff_slope})

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, slope, dst = (b.view(v) for v in (node.inputs[0], node.weights["slope"], node.output))
        row_step(b, "prelu", [src, slope.expanded(dst.shape)], [dst], whole_rows=True)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        order = b.layout(src)
        b.result(node.output, "PRelu", [b.get(src, order), b.operand(node.weights["slope"], order)], order)


class PReLUBackward(Layer):
    """Gradients with respect to source and slope: inputs source, slope, diff_dst."""

    n_inputs = 3
    n_outputs: ClassVar[int] = 2

    def __init__(self, name: str):
        super().__init__(name=f"{name}/backward")

    def output_shapes(self, *shapes: Shape) -> list[Shape]:
        return [shapes[0], shapes[1]]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, slope, diff_dst = (b.view(v) for v in node.inputs)
        diff_src, diff_slope = (b.view(v) for v in node.outputs)
        channels = slope.size
        rows = _coalesce_leading([src, slope.expanded(src.shape), diff_dst, diff_src])
        shards = max(1, min(TILES_WANTED, src.size // channels, src.size // SHARD_ELEMENTS))
        partial = b.temp((shards, channels))
        target = partial if shards > 1 else View(diff_slope.storage, diff_slope.offset, (1, channels), (channels, 1))
        b.step("prelu_backward", rows[:3], [rows[3], target], {"shards": shards}, tiles=shards,
               scratch_bytes=4 * channels, why=f"{shards} shards")
        if shards > 1:
            lower_sum_shards(b, partial, diff_slope)
