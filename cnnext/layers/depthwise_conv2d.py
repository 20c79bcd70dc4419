"""``DepthwiseConv2D``: a convolution of each channel by itself, with the operators of its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from cnnext._native.executor import BINARY
from cnnext.geometry import PaddingPairs, resolve_padding
from cnnext.graph.graph import Epilogue, Graph, Node, Shape, Value
from cnnext.graph.kernels import epilogue_params
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers._algorithms import L2_BYTES, lower_sum_shards
from cnnext.layers._rows import row_step
from cnnext.layers._taps import (
    MIN_TILE_MACS,
    TILES_WANTED,
    Pair,
    Tap,
    Window2D,
    lower_backward_data,
    lower_backward_weights,
    lower_convolution,
)
from cnnext.layers._weighted import BackwardData, BackwardWeights, fold_into_weights, weighted_gradient, weights_and_bias
from cnnext.layers._windows import SlidingWindow, block_tile, onnx_window, phase_view, phases, receptive_window
from cnnext.layers.attributes import activation, boolean, data_format, initializer, integer, padding, pair, regularizer
from cnnext.layers.conv2d import output_size
from cnnext.layers.elementwise import copy_view
from cnnext.layers.layer import Band, Gradients, Images, Layer, ParameterSpec, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2

SOURCE_ROWS_BYTES = 20 << 10    # of a first-level cache of 32 KiB and more; the rest is for results and weights
SLIDING_COLUMNS, SLIDING_STRIDES = (3, 5, 7), (1, 2)    # that the primitive `depthwise_row` is compiled for


class DepthwiseConv2D(Layer):
    """2-D convolution of each channel of ``(N, H, W, C)`` with M windows of its own.

    ``dst[n, oh, ow, c*M + m] = bias[c*M + m] + sum over kh, kw of
    src[n, oh*SH + kh*DH - PT, ow*SW + kw*DW - PL, c] * weights[kh, kw, c, m]``, zero outside the source.

    Parameters
    ----------
    kernel_size, strides, dilation : int or (rows, columns)
    padding : "valid", "same" or ((top, bottom), (left, right))
    depth_multiplier : int
        Windows per channel, M.
    use_bias, activation, strict, data_format, bias_initializer, bias_regularizer
        As in ``Conv2D``.
    depthwise_initializer, depthwise_regularizer
        As ``kernel_initializer`` and ``kernel_regularizer`` there.

    Weights
    -------
    weights (KH, KW, C, M), bias (C*M,)
    """

    type_name = "cnnext/DepthwiseConv2D@1"
    accepts_epilogue = True

    kernel_size: Pair = pair()
    strides: Pair = pair(1)
    padding: str | PaddingPairs = padding()
    dilation: Pair = pair(1)
    depth_multiplier: int = integer(1, minimum=1)
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    strict: bool = boolean(False)
    data_format: str = data_format()
    depthwise_initializer: Any = initializer("glorot_uniform")
    bias_initializer: Any = initializer("zeros")
    depthwise_regularizer: L1L2 | None = regularizer()
    bias_regularizer: L1L2 | None = regularizer()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels, multiplier, taps = channels_of(self, shapes[0]), self.depth_multiplier, prod(self.kernel_size)
        return weights_and_bias(self, (*self.kernel_size, channels, multiplier), taps, taps * multiplier,
                                (channels * multiplier,), "depthwise")

    def geometry(self, shape: Shape) -> Window2D:
        """The window with its padding resolved for a source shape; every channel is a group."""
        size = (shape[1] or 1, shape[2] or 1)
        pads = resolve_padding(self.padding, size, self.kernel_size, self.strides, self.dilation)
        return Window2D(self.kernel_size, self.strides, pads, self.dilation, channels_of(self, shape))

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        channels, window = channels_of(self, shape), self.geometry(shape)
        spatial = [output_size(self, shape[1 + axis], window, axis, shape) for axis in range(2)]
        return (shape[0], *spatial, channels * self.depth_multiplier)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        src_shape, weights_shape = node.inputs[0].shape, node.weights["weights"].shape
        window = self.geometry(src_shape)
        return weighted_gradient(g, node, diff_dst[0], DepthwiseBackwardData(src_shape, self.name, window),
                                 DepthwiseBackwardWeights(weights_shape, self.name, window))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst, weights = b.view(node.inputs[0]), b.view(node.output), grouped_weights(b, node.weights["weights"])
        bias = b.view(node.weights["bias"]) if "bias" in node.weights else None
        window, epilogue = self.geometry(src.shape), no_epilogue(node)
        if self.depth_multiplier > 1:
            lower_convolution(b, src, weights, bias, dst, window, epilogue)
            return
        added = b.view(epilogue.add) if epilogue.add is not None else None
        lower_depthwise(b, src, weights, bias, dst, window.taps(), window.strides, epilogue, added)

    def band(self, node: Node, first: int, last: int) -> Band | None:
        shape = node.inputs[0].shape
        return self.geometry(shape).band(first, last, shape[1] or 0)

    def images(self, node: Node) -> Images:
        return Images((True,))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,), (kh, kw, channels, multiplier) = node.inputs, node.weights["weights"].shape
        windows = (channels or 0) * (multiplier or 0)
        weights = b.weight(node.weights["weights"], (2, 0, 1), split=(kh, kw, windows), shape=(windows, 1, kh or 0, kw or 0))
        b.result_first(node.output, "Conv", [b.get_first(src), weights, *b.weights_of(node, "bias")], group=channels,
                       **onnx_window(self.geometry(src.shape), src.shape, self.padding))

    def fold_affine(self, g: Graph, node: Node, scale: Value, shift: Value) -> dict[str, Value] | None:
        return fold_into_weights(g, node, scale, shift, ScaleWindows)

    @property
    def window(self) -> Window:
        return receptive_window(self.kernel_size, self.strides, self.dilation, self.padding)

    def macs(self, node: Node) -> int:
        return prod(n or 1 for n in node.output.shape) * prod(self.kernel_size)


class DepthwiseBackwardData(BackwardData):
    """Gradient of a depthwise convolution with respect to its source."""

    accepts_epilogue = True

    def images(self, node: Node) -> Images:
        return Images((True, False))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        diff_dst, diff_src, weights = b.view(node.inputs[0]), b.view(node.output), grouped_weights(b, node.inputs[1])
        window, epilogue = self.geometry, no_epilogue(node)
        if diff_dst.shape[3] != diff_src.shape[3]:
            lower_backward_data(b, diff_dst, weights, None, diff_src, window, epilogue)
            return
        added = b.view(epilogue.add) if epilogue.add is not None else None
        for phase in phases(window, diff_src):
            pixels = phase_view(diff_src, phase, window.strides)
            phase_add = phase_view(added, phase, window.strides) if added is not None else None
            lower_depthwise(b, diff_dst, weights, None, pixels, window.phase_taps(*phase), (1, 1), epilogue, phase_add)


class DepthwiseBackwardWeights(BackwardWeights):
    """Gradient of a depthwise convolution with respect to its weights."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        (src, diff_dst), result = (b.view(v) for v in node.inputs), b.view(node.output)
        kh, kw, c, m = result.shape
        grouped = result.reshaped((kh, kw, 1, c * m))
        assert grouped is not None, "gradients of weights are dense"
        if m > 1:
            lower_backward_weights(b, src, diff_dst, grouped, self.geometry)
        else:
            lower_depthwise_backward_weights(b, src, diff_dst, grouped, self.geometry)


class ScaleWindows(Layer):
    """Depthwise weights (KH, KW, C, M) * scale (C*M,)."""

    n_inputs = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def lower(self, b: PlanBuilder, node: Node) -> None:
        (weights, scale), dst = (b.view(v) for v in node.inputs), b.view(node.output)
        per_window = scale.reshaped(dst.shape[2:])
        assert per_window is not None, "a scale of one axis is dense"
        row_step(b, "binary", [weights, per_window.expanded(dst.shape)], [dst], {"op": BINARY["multiply"]}, why="scale")


def channels_of(layer: Layer, shape: Shape) -> int:
    """Channels of the source, checked against its rank."""
    if len(shape) != 4:
        raise layer.error("src", "have rank 4, (N, H, W, C)", shape)
    if not shape[3]:
        raise layer.error("src", "have a known number of channels", shape)
    return shape[3]


def grouped_weights(b: PlanBuilder, value: Value) -> View:
    """Weights (KH, KW, C, M) as those of a convolution with C groups, (KH, KW, 1, C*M): the same elements in order."""
    view = b.view(value)
    kh, kw, c, m = view.shape
    if not view.is_dense:
        dense = b.temp(view.shape)
        copy_view(b, view, dense, why="without gaps")
        view = dense
    grouped = view.reshaped((kh, kw, 1, c * m))
    assert grouped is not None, "dense views take any shape"
    return grouped


def lower_depthwise(b: PlanBuilder, src: View, weights: View, bias: View | None, dst: View, taps: list[Tap],
                    strides: Pair, epilogue: Epilogue, add: View | None) -> None:
    """Append one depthwise convolution; weights (KH, KW, 1, C), ``add`` laid out like ``dst``."""
    columns = _sliding_columns(taps, strides, weights.shape[1])
    block = _channel_block(b, src, columns["KH"]) if columns["KW"] else dst.shape[3]
    tile = block_tile(b, dst.shape, len(taps), block) if block < dst.shape[3] else None
    sliding = SlidingWindow.of(b, src, dst, taps, strides, weights.shape[1], tile)
    params = {**sliding.params, **columns, "block": block, "far": 4 * src.size > L2_BYTES, "has_bias": bias is not None,
              **epilogue_params(epilogue), "has_add": add is not None}
    sources = [src, sliding.table, weights] + [v for v in (bias, add) if v is not None]
    b.step("conv_depthwise", sources, [dst], params, tiles=sliding.tiles, scratch_bytes=16 * max(len(taps), 1),
           macs=dst.size * len(taps),
           why=sliding.why + (f", columns slide, {min(block, dst.shape[3])} channels at a time" if columns["KW"] else ""))


def _channel_block(b: PlanBuilder, src: View, rows: int) -> int:
    """Channels of which so many source rows fit into L1; all where an image comes from beyond L2: there, to read a source
    row once and in order counts for more (56x56x144: 5 %)."""
    if 4 * src.shape[1] * src.shape[2] * src.shape[3] > L2_BYTES // 2:
        return src.shape[3]
    return max(1, SOURCE_ROWS_BYTES // (4 * b.vl * rows * max(src.shape[2], 1))) * b.vl


def _sliding_columns(taps: Sequence[Tap], strides: Pair, columns: int) -> dict[str, int]:
    """The window as ``depthwise_row`` knows it, KW = 0 where it is none: rows of 3, 5 or 7 neighbouring columns that move by
    1 or 2, whose weights lie at one distance (-1 where they are turned)."""
    params = dict(KH=0, KW=0, dh=0, dw=0, weight_first=0, weight_step=0)
    kw = len({dw for _, dw, _, _ in taps})
    if kw not in SLIDING_COLUMNS or strides[1] not in SLIDING_STRIDES:
        return params
    dh, dw = taps[0][:2]
    rows = [i * columns + j for _, _, i, j in taps]
    step = rows[1] - rows[0]
    neighbours = all(tap[:2] == (dh + i // kw, dw + i % kw) for i, tap in enumerate(taps))
    evenly = rows == [rows[0] + i * step for i in range(len(rows))]
    if not neighbours or not evenly or len(taps) % kw:
        return params
    return dict(KH=len(taps) // kw, KW=kw, dh=dh, dw=dw, weight_first=rows[0], weight_step=step)


def lower_depthwise_backward_weights(b: PlanBuilder, src: View, diff_dst: View, diff_weights: View,
                                     window: Window2D) -> None:
    """diff_weights (KH, KW, 1, C), overwriting."""
    n, oh, _, c = diff_dst.shape
    n_taps = prod(window.kernel)
    macs = diff_dst.size * n_taps
    shards = max(1, min(TILES_WANTED, n * oh, macs // (4 * MIN_TILE_MACS)))
    partial = b.temp((shards, n_taps, c)) if shards > 1 else diff_weights.reshaped((1, n_taps, c))
    assert partial is not None, "gradients of weights are dense"
    taps = window.taps()
    table = b.table([(dh, dw, kh * window.kernel[1] + kw) for dh, dw, kh, kw in taps])
    columns = _sliding_columns(taps, window.strides, window.kernel[1])
    b.step("depthwise_backward_weights", [src, diff_dst, table], [partial],
           dict(n_taps=n_taps, SH=window.strides[0], SW=window.strides[1], shards=shards,
                far=4 * src.size > L2_BYTES, **columns), tiles=shards,
           macs=macs, why=f"{shards} shards of {n * oh} rows{', columns slide' if columns['KW'] else ''}")
    if shards > 1:
        lower_sum_shards(b, partial, diff_weights)
