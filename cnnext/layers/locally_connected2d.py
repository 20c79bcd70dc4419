"""``LocallyConnected2D``: a convolution whose weights are not shared, with the operators of its gradient."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.geometry import PaddingPairs, resolve_padding
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.kernels import epilogue_params
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers._taps import (
    MIN_TILE_MACS,
    PANEL_BLOCK_BYTES,
    TILE_MACS,
    TILES_WANTED,
    Pair,
    Window2D,
    panel_vectors,
)
from cnnext.layers._weighted import BackwardData, BackwardWeights, weighted_gradient, weights_and_bias
from cnnext.layers._windows import receptive_window
from cnnext.layers.attributes import activation, boolean, data_format, initializer, integer, padding, pair, regularizer
from cnnext.layers.conv2d import output_size
from cnnext.layers.depthwise_conv2d import channels_of
from cnnext.layers.layer import Gradients, Layer, ParameterSpec, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2


class LocallyConnected2D(Layer):
    """A convolution of ``(N, H, W, C)`` in which each output pixel has weights of its own.

    ``dst[n, oh, ow, oc] = bias[oh, ow, oc] + sum over k = (kh, kw, ic) of
    src[n, oh*SH + kh - PT, ow*SW + kw - PL, ic] * weights[oh, ow, k, oc]``, zero outside the source.

    Parameters
    ----------
    filters : int
        Output channels OC.
    kernel_size, strides : int or (rows, columns)
    padding : "valid", "same" or ((top, bottom), (left, right))
    use_bias, activation, strict, data_format
        As in ``Conv2D``. The source's rows and columns must be known when the layer is built.

    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer
        As in ``Conv2D``.

    Weights
    -------
    weights (OH, OW, KH*KW*IC, OC), bias (OH, OW, OC)
    """

    type_name = "cnnext/LocallyConnected2D@1"
    accepts_epilogue = True

    filters: int = integer(minimum=1)
    kernel_size: Pair = pair()
    strides: Pair = pair(1)
    padding: str | PaddingPairs = padding()
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    strict: bool = boolean(False)
    data_format: str = data_format()
    kernel_initializer: Any = initializer("glorot_uniform")
    bias_initializer: Any = initializer("zeros")
    kernel_regularizer: L1L2 | None = regularizer()
    bias_regularizer: L1L2 | None = regularizer()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        _, oh, ow, _ = self.output_shape(*shapes)
        assert oh is not None and ow is not None, "output_shape refuses unknown extents"
        taps, channels = prod(self.kernel_size), channels_of(self, shapes[0])
        return weights_and_bias(self, (oh, ow, taps * channels, self.filters), taps * channels, taps * self.filters,
                                (oh, ow, self.filters))

    def geometry(self, shape: Shape) -> Window2D:
        """The window with its padding resolved for a source shape."""
        assert shape[1] is not None and shape[2] is not None, "output_shape refuses unknown extents"
        pads = resolve_padding(self.padding, (shape[1], shape[2]), self.kernel_size, self.strides)
        return Window2D(self.kernel_size, self.strides, pads)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        channels_of(self, shape)
        if shape[1] is None or shape[2] is None:
            raise self.error("src", "have known rows and columns: the weights depend on them", shape)
        window = self.geometry(shape)
        return (shape[0], *(output_size(self, shape[1 + axis], window, axis, shape) for axis in range(2)), self.filters)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        src_shape, weights_shape = node.inputs[0].shape, node.weights["weights"].shape
        window = self.geometry(src_shape)
        return weighted_gradient(g, node, diff_dst[0], LocallyConnectedBackwardData(src_shape, self.name, window),
                                 LocallyConnectedBackwardWeights(weights_shape, self.name, window))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst, weights = b.view(node.inputs[0]), b.view(node.output), b.view(node.weights["weights"])
        epilogue, macs = no_epilogue(node), self.macs(node)
        rest = [b.view(v) for v in (node.weights.get("bias"), epilogue.add) if v is not None]
        nv = panel_vectors(b, self.filters)
        width = nv * b.vl
        # of K: as much as leaves half of L2 to the sources and results, but at least one segment
        block = max(PANEL_BLOCK_BYTES // (4 * width), self.kernel_size[1] * src.shape[3])
        tile, tiles = _pixels(dst.shape, macs)
        params = dict(window_params(self.geometry(src.shape)), nv=nv, tile=tile, block=block,
                      has_bias="bias" in node.weights, **epilogue_params(epilogue))
        b.step("locally_connected", [src, weights, *rest], [dst], params, tiles=tiles,
               scratch_bytes=4 * (block + 1) * width + 8 * prod(self.kernel_size), macs=macs,
               why=f"panels of {width} channels, {tile} pixels a tile")

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        # all windows side by side, then a matrix for each pixel
        (src,), weights = node.inputs, node.weights["weights"]
        oh, ow, taps, _ = (n or 0 for n in weights.shape)
        window = self.geometry(src.shape)
        (kh, kw), (top, bottom), (left, right) = window.kernel, *window.padding
        x = b.get(src)
        if window.padding != ((0, 0), (0, 0)):
            x = b.op("Pad", x, b.ints(0, top, left, 0, 0, bottom, right, 0))
        for axis, out, kernel, stride in ((1, oh, kh, window.strides[0]), (2, ow, kw, window.strides[1])):
            index = np.arange(out)[:, np.newaxis] * stride + np.arange(kernel)
            x = b.op("Gather", x, b.constant(index.ravel().astype(np.int64), "windows"), axis=axis)
        x = b.op("Reshape", x, b.ints(0, oh, kh, ow, kw, src.shape[3]))
        x = b.op("Reshape", b.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), b.ints(0, oh, ow, 1, taps))
        x = b.op("MatMul", x, b.weight(weights))
        axes, bias = [x, b.ints(3)], b.weights_of(node, "bias")
        if bias:
            b.result(node.output, "Add", [b.op("Squeeze", *axes), *bias])
        else:
            b.result(node.output, "Squeeze", axes)

    @property
    def window(self) -> Window:
        return receptive_window(self.kernel_size, self.strides, (1, 1), self.padding)

    def macs(self, node: Node) -> int:
        return prod(n or 1 for n in node.output.shape) * prod(self.kernel_size) * (node.inputs[0].shape[3] or 0)


class LocallyConnectedBackwardData(BackwardData):
    """Gradient of a locally connected layer with respect to its source."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        (diff_dst, weights), diff_src = (b.view(v) for v in node.inputs), b.view(node.output)
        row = self.geometry.kernel[1] * diff_src.shape[3]
        nv = panel_vectors(b, row)
        band = ceil(diff_src.shape[1] / TILES_WANTED)
        b.step("locally_connected_backward_data", [diff_dst, weights], [diff_src],
               dict(window_params(self.geometry), nv=nv, tile=band), tiles=ceil(diff_src.shape[1] / band),
               scratch_bytes=4 * diff_dst.shape[3] * nv * b.vl, macs=diff_dst.size * self.geometry.kernel[0] * row,
               why=f"bands of {band} source rows")


class LocallyConnectedBackwardWeights(BackwardWeights):
    """Gradient of a locally connected layer with respect to its weights."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        (src, diff_dst), diff_weights = (b.view(v) for v in node.inputs), b.view(node.output)
        nv = panel_vectors(b, diff_dst.shape[3])
        macs = diff_weights.size * src.shape[0]
        tile, tiles = _pixels(diff_dst.shape, macs)
        b.step("locally_connected_backward_weights", [src, diff_dst], [diff_weights],
               dict(window_params(self.geometry), nv=nv, tile=tile), tiles=tiles,
               scratch_bytes=4 * src.shape[0] * nv * b.vl, macs=macs, why=f"{tile} pixels a tile")


def window_params(window: Window2D) -> dict[str, int]:
    """What the parameter structs of the kernels in ``src/kernels/locally_connected.pyx`` begin with."""
    (kh, kw), (sh, sw), ((top, _), (left, _)) = window.kernel, window.strides, window.padding
    return dict(KH=kh, KW=kw, SH=sh, SW=sw, PT=top, PL=left)


def _pixels(shape: tuple[int, ...], macs: int) -> Pair:
    """Output pixels of a tile, and how many tiles that makes."""
    pixels = shape[1] * shape[2]
    wanted = min(TILE_MACS, max(macs // TILES_WANTED, MIN_TILE_MACS))
    tile = max(1, min(pixels, wanted * pixels // max(macs, 1)))
    return tile, ceil(pixels / tile)
