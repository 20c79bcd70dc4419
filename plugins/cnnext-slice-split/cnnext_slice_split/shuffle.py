"""Channels in another order, and pixels as channels: ``ChannelShuffle``, ``SpaceToDepth``, ``DepthToSpace``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers.attributes import choice, data_format, integer
from cnnext.layers.layer import Layer
from cnnext.layers.permute import Permute
from cnnext.layers.reshape import Reshape

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class ChannelShuffle(Layer):
    """Channels of (..., C) dealt out anew: those of G groups of C/G become C/G groups of G.

    Channel ``g * C/G + i`` goes to ``i * G + g``, so that a grouped convolution after it sees all groups.

    Parameters
    ----------
    groups : int
        Divides the channels.
    data_format : "channels_last" or "channels_first"

    References
    ----------
    Zhang et al. 2018, "ShuffleNet", arXiv 1707.01083.
    """

    type_name = "slice-split/ChannelShuffle@1"

    groups: int = integer(minimum=1)
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) < 2:
            raise self.error("src", "have rank 2 or more, (N, ..., C)", src)
        if src[-1] is not None and src[-1] % self.groups:
            raise self.error("groups", "divide the channels of the source", self.groups, src)
        return src

    def is_identity(self, training: bool) -> bool:
        return self.groups == 1

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        *outer, channels = (n or 0 for n in x[0].shape[1:])
        rank = len(outer) + 1
        return rearranged(g, x[0], (*outer, self.groups, channels // self.groups), (*range(rank), rank + 1, rank),
                          (*outer, channels), self.name)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        channels, x = src.shape[-1], b.get_first(src)
        if channels is None:
            raise self.error("src", "have a known number of channels to be exported", src.shape)
        dealt = b.op("Transpose", b.op("Reshape", x, b.ints(0, self.groups, channels // self.groups, -1)), perm=[0, 2, 1, 3])
        b.result_first(node.output, "Reshape", [dealt, b.op("Shape", x)])


class _Blocks(Layer):
    """What the two share: blocks of pixels, and the order in which they stand among the channels."""

    block_size: int = integer(minimum=1)
    mode: str = choice("DCR", "CRD")
    data_format: str = data_format()

    def is_identity(self, training: bool) -> bool:
        return self.block_size == 1


class SpaceToDepth(_Blocks):
    """Blocks of B x B pixels as channels: (N, H, W, C) to (N, H/B, W/B, B*B*C).

    Parameters
    ----------
    block_size : int
        B; divides H and W.
    mode : "DCR" or "CRD"
        Of the result's channels, the block's row and column count slowest (``(bh * B + bw) * C + c``), or fastest
        (``(c * B + bh) * B + bw``). The names are those of ONNX's DepthToSpace.
    data_format : "channels_last" or "channels_first"
    """

    type_name = "slice-split/SpaceToDepth@1"

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", src)
        size = self.block_size
        if any(n is not None and n % size for n in src[1:3]):
            raise self.error("block_size", "divide the rows and columns of the source", size, src)
        rows, cols = (None if n is None else n // size for n in src[1:3])
        return (src[0], rows, cols, None if src[3] is None else src[3] * size * size)

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        rows, cols, channels = (n or 0 for n in x[0].shape[1:])
        size = self.block_size
        out = (rows // size, cols // size, channels * size * size)
        axes = (0, 1, 3, 2, 4, 5) if self.mode == "DCR" else (0, 1, 3, 5, 2, 4)
        return rearranged(g, x[0], (out[0], size, out[1], size, channels), axes, out, self.name)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,), size = node.inputs, self.block_size
        if self.mode == "DCR":
            b.result_first(node.output, "SpaceToDepth", [b.get_first(src)], blocksize=size)
            return
        rows, cols, channels = b.extents(node.output)
        blocks = b.op("Reshape", b.get_first(src), b.ints(0, channels // size**2, rows, size, cols, size))
        blocks = b.op("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4])
        b.result_first(node.output, "Reshape", [blocks, b.ints(0, channels, rows, cols)])


class DepthToSpace(_Blocks):
    """Channels as blocks of B x B pixels: (N, H, W, B*B*C) to (N, H*B, W*B, C); also called pixel shuffle.

    Parameters
    ----------
    block_size : int
        B; B * B divides the channels.
    mode : "DCR" or "CRD"
        As in `SpaceToDepth`, of which this is the inverse. "DCR" is ONNX's default, "CRD" the order of PyTorch's
        ``PixelShuffle``.
    data_format : "channels_last" or "channels_first"

    References
    ----------
    Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution", arXiv 1609.05158.
    """

    type_name = "slice-split/DepthToSpace@1"

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", src)
        size = self.block_size
        if src[3] is not None and src[3] % (size * size):
            raise self.error("block_size", "have a square that divides the channels of the source", size, src)
        rows, cols = (None if n is None else n * size for n in src[1:3])
        return (src[0], rows, cols, None if src[3] is None else src[3] // (size * size))

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        rows, cols, depth = (n or 0 for n in x[0].shape[1:])
        size = self.block_size
        channels = depth // (size * size)
        inner = (size, size, channels) if self.mode == "DCR" else (channels, size, size)
        axes = (0, 1, 3, 2, 4, 5) if self.mode == "DCR" else (0, 1, 4, 2, 5, 3)
        return rearranged(g, x[0], (rows, cols, *inner), axes, (rows * size, cols * size, channels), self.name)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        b.result_first(node.output, "DepthToSpace", [b.get_first(node.inputs[0])], blocksize=self.block_size, mode=self.mode)


def rearranged(g: Graph, x: Value, before: tuple[int, ...], axes: tuple[int, ...], after: tuple[int, ...],
               name: str) -> Value:
    """Append a reshaping, a permutation of axes and a second reshaping; the batch stays in all three."""
    x = g.apply1(Reshape(before, name=f"{name}/cut"), x)
    x = g.apply1(Permute(axes, name=f"{name}/permute"), x)
    return g.apply1(Reshape(after, name=f"{name}/join"), x)
