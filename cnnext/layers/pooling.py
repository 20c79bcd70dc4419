"""Pools: ``MaxPool2D``, ``AvgPool2D``, ``LpPool2D``, and over whole images ``GlobalMaxPool2D``, ``GlobalAvgPool2D``."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnext._native.executor import BINARY
from cnnext._native.pool import OPS
from cnnext.geometry import PaddingPairs, resolve_padding, window_extent
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._rows import row_step
from cnnext.layers._taps import Pair, Tap, Window2D
from cnnext.layers._windows import SlidingWindow, image_blocks, onnx_window, phase_view, phases, receptive_window
from cnnext.layers.attributes import boolean, data_format, number, padding, pair
from cnnext.layers.conv2d import output_size
from cnnext.layers.layer import Band, Gradients, Images, Layer, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder


class Pooling(Layer):
    """What the pools share: a window that slides over each channel alone."""

    op: ClassVar[str] = ""
    power: float = 1.0
    count_include_pad: bool = False

    pool_size: Pair = pair(2)
    strides: Pair = pair(None, optional=True)
    padding: str | PaddingPairs = padding()
    dilation: Pair = pair(1)
    ceil_mode: bool = boolean(False)
    data_format: str = data_format()

    def validate(self) -> None:
        if self.strides is None:
            self.strides = self.pool_size
        extent = tuple(window_extent(k, d) for k, d in zip(self.pool_size, self.dilation, strict=True))
        if isinstance(self.padding, tuple) and any(max(p) >= e for p, e in zip(self.padding, extent, strict=True)):
            raise self.error("padding", f"be smaller than the window, which spans {extent}", self.padding)

    def geometry(self, shape: Shape) -> Window2D:
        """The window with its padding resolved for a source shape."""
        size = (shape[1] or 1, shape[2] or 1)
        pads = resolve_padding(self.padding, size, self.pool_size, self.strides, self.dilation)
        return Window2D(self.pool_size, self.strides, pads, self.dilation)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", shape)
        window = self.geometry(shape)
        spatial = []
        for axis in range(2):
            size, before = shape[1 + axis], window.padding[axis][0]
            out = output_size(self, size, window, axis, shape, self.ceil_mode)
            if size is not None and out is not None and _misses(size, out, window, axis, before):
                raise self.error("dilation", "leave every window a pixel of the source", self.dilation, shape)
            spatial.append(out)
        return (shape[0], *spatial, shape[3])

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (src,), dy = node.inputs, diff_dst[0]
        assert dy is not None
        backward = PoolBackward(self, self.geometry(src.shape))
        return Gradients([g.apply1(backward, src, node.output, dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst = b.view(node.inputs[0]), b.view(node.output)
        window = self.geometry(src.shape)
        divisors = None
        if self.op == "avg":
            rows, cols = (_counts(src.shape, dst.shape, window, axis, self.count_include_pad) for axis in range(2))
            divisors = np.concatenate([rows, cols])
        lower_pool(b, self.op, src, dst, window.taps(), window.strides, divisors, self.power)

    def band(self, node: Node, first: int, last: int) -> Band | None:
        shape = node.inputs[0].shape
        return self.geometry(shape).band(first, last, shape[1] or 0)

    def images(self, node: Node) -> Images:
        return Images((True,))

    def onnx_window(self, b: OnnxBuilder, node: Node) -> tuple[dict[str, Any], bool]:
        """The window's attributes in ONNX, and whether ONNX's pools take it: no pad as large as the kernel.

        What a last window of ``ceil_mode`` reaches beyond the padding is padding too there: all pools but one, see
        `AvgPool2D`, leave pixels outside the source out.
        """
        (src,) = node.inputs
        window = self.geometry(src.shape)
        if None in src.shape[1:3]:
            return onnx_window(window, src.shape, self.padding) | ({"ceil_mode": 1} if self.ceil_mode else {}), True
        pads = tuple((before, max(after, overhang(window, axis, src.shape, node.output.shape)))
                     for axis, (before, after) in enumerate(window.padding))
        fits = all(max(pair) < kernel for pair, kernel in zip(pads, window.kernel, strict=True))
        return onnx_window(replace(window, padding=pads)), fits  # type: ignore[arg-type]

    @property
    def window(self) -> Window:
        return receptive_window(self.pool_size, self.strides, self.dilation, self.padding)


class MaxPool2D(Pooling):
    """Largest value of each window of ``(N, H, W, C)``; pixels outside the source are left out.

    Parameters
    ----------
    pool_size, strides, dilation : int or (rows, columns)
        ``strides`` is ``pool_size`` when missing.
    padding : "valid", "same" or ((top, bottom), (left, right))
        Less than the window spans.
    ceil_mode : bool
        Keep a last window that only partly lies on the padded source.
    data_format : "channels_last" or "channels_first"

    Notes
    -----
    In the gradient the first maximum of a window, row by row, receives all.
    """

    type_name = "cnnext/MaxPool2D@1"
    op = "max"

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        attributes, fits = self.onnx_window(b, node)
        x = b.get_first(node.inputs[0])
        if not fits:
            top, left, bottom, right = attributes.pop("pads")
            x = b.op("Pad", x, b.ints(0, 0, top, left, 0, 0, bottom, right), b.scalar(-inf))
        b.result_first(node.output, "MaxPool", [x], **attributes)


class AvgPool2D(Pooling):
    """Mean of each window of ``(N, H, W, C)``.

    Parameters
    ----------
    pool_size, strides, padding, dilation, ceil_mode, data_format
        As in ``MaxPool2D``.
    count_include_pad : bool
        Divide by the pixels inside the padded source instead of those inside the source. What a last window of
        ``ceil_mode`` reaches beyond the padding never counts.
    """

    type_name = "cnnext/AvgPool2D@1"
    op = "avg"

    count_include_pad: bool = boolean(False)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy, shape = diff_dst[0], node.inputs[0].shape
        assert dy is not None
        return Gradients([g.apply1(AvgPoolBackward(self, self.geometry(shape), shape), dy)])

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        attributes, fits = self.onnx_window(b, node)
        window = self.geometry(src.shape)
        # Padding counts, what lies beyond it does not: there ONNX's runtimes differ from version to version.
        beyond = self.count_include_pad and self.ceil_mode
        if fits and not beyond and (b.opset >= 19 or "dilations" not in attributes):
            b.result_first(node.output, "AveragePool", [b.get_first(src)], count_include_pad=int(self.count_include_pad),
                           **attributes)
            return
        b.extents(src)
        rows, cols = (_counts(src.shape, node.output.shape, window, axis, self.count_include_pad) for axis in range(2))
        shares = b.constant((1.0 / np.outer(rows, cols)).astype(np.float32), "shares")
        b.result_first(node.output, "Mul", [onnx_sums(b, b.get_first(src), src, attributes), shares])


class LpPool2D(Pooling):
    """Norm of each window of ``(N, H, W, C)``: ``(sum |x|^power)^(1/power)``.

    Parameters
    ----------
    pool_size, strides, padding, dilation, ceil_mode, data_format
        As in ``MaxPool2D``.
    power : float
        At least 1.

    Notes
    -----
    The gradient of a norm of 0 is 0. The sum is one of float32 values: where ``|x|^power`` leaves their range, the norm
    is 0 or infinite.
    """

    type_name = "cnnext/LpPool2D@1"
    op = "lp"

    power: float = number(2.0, minimum=1.0)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        attributes, fits = self.onnx_window(b, node)
        x = b.get_first(src)
        if fits and self.power.is_integer() and (b.opset >= 18 or not {"dilations", "ceil_mode"} & set(attributes)):
            b.result_first(node.output, "LpPool", [x], p=int(self.power), **attributes)
            return
        b.extents(src)
        sums = onnx_sums(b, b.op("Pow", b.op("Abs", x), b.scalar(self.power)), src, attributes)
        b.result_first(node.output, "Pow", [sums, b.scalar(1 / self.power)])


class GlobalPooling(Layer):
    """What the pools over whole images share."""

    sees_everything = True
    onnx_op: ClassVar[str] = ""

    keepdims: bool = boolean(False)
    data_format: str = data_format()

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", shape)
        if shape[1] == 0 or shape[2] == 0:
            raise self.error("src", "have at least one pixel", shape)
        return (shape[0], 1, 1, shape[3]) if self.keepdims else (shape[0], shape[3])

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        x = b.get_first(node.inputs[0])
        if self.keepdims:
            b.result_first(node.output, self.onnx_op, [x])
        else:
            b.result(node.output, "Flatten", [b.op(self.onnx_op, x)], axis=1)


class GlobalMaxPool2D(GlobalPooling):
    """Largest value of each channel: ``(N, H, W, C)`` to ``(N, C)``, or with ``keepdims`` to ``(N, 1, 1, C)``.

    Parameters
    ----------
    keepdims : bool
    data_format : "channels_last" or "channels_first"
    """

    type_name = "cnnext/GlobalMaxPool2D@1"
    onnx_op = "GlobalMaxPool"
    op: ClassVar[str] = "max"
    power: ClassVar[float] = 1.0

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        (src,), dy = node.inputs, diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(PoolBackward(self, _whole(src.shape)), src, node.output, dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        lower_pool(b, "max", src, one_pixel(b.view(node.output)), _whole(src.shape).taps(), (1, 1))


class GlobalAvgPool2D(GlobalPooling):
    """Mean of each channel: ``(N, H, W, C)`` to ``(N, C)``, or with ``keepdims`` to ``(N, 1, 1, C)``.

    Parameters
    ----------
    keepdims : bool
    data_format : "channels_last" or "channels_first"
    """

    type_name = "cnnext/GlobalAvgPool2D@1"
    onnx_op = "GlobalAveragePool"

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        dy = diff_dst[0]
        assert dy is not None
        return Gradients([g.apply1(GlobalAvgPoolBackward(node.inputs[0].shape, self.name), dy)])

    def lower(self, b: PlanBuilder, node: Node) -> None:
        lower_global_avg(b, b.view(node.inputs[0]), one_pixel(b.view(node.output)))


class PoolBackward(Layer):
    """Gradient of a maximum or a norm: inputs are the pool's source, its result and diff_dst."""

    n_inputs = 3

    def __init__(self, pool: Pooling | GlobalMaxPool2D, window: Window2D):
        super().__init__(name=f"{pool.name}/diff_src")
        self.op = pool.op
        self.power = pool.power
        self.geometry = window

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def images(self, node: Node) -> Images | None:
        return None if len(node.inputs[1].shape) == 2 else Images((True, True, True))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, dst, diff_dst = (one_pixel(b.view(v)) for v in node.inputs)
        taps = self.geometry.taps()
        sliding = SlidingWindow.of(b, src, dst, taps, self.geometry.strides, 1, image_blocks(dst.shape, len(taps)))
        windows = [_windows_of(src.shape, dst.shape, self.geometry, axis) for axis in range(2)]
        params = dict(sliding.params, reach=max(t[0] for t in taps) + 1, op=OPS[self.op], power=self.power,
                      shared=any((count > 1).any() for count in windows), gaps=any((count == 0).any() for count in windows))
        b.step("pool_backward", [src, sliding.table, dst, diff_dst], [b.view(node.output)], params, tiles=sliding.tiles,
               scratch_bytes=24 * len(taps), why=sliding.why)


class AvgPoolBackward(Layer):
    """Gradient of a mean, from diff_dst: each source pixel adds up its share of the windows that see it."""

    def __init__(self, pool: AvgPool2D, window: Window2D, src_shape: Shape):
        super().__init__(name=f"{pool.name}/diff_src")
        self.count_include_pad = pool.count_include_pad
        self.geometry = window
        self.src_shape = src_shape

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.src_shape

    def lower(self, b: PlanBuilder, node: Node) -> None:
        diff_dst, diff_src = b.view(node.inputs[0]), b.view(node.output)
        window = self.geometry
        rows, cols = (_counts(diff_src.shape, diff_dst.shape, window, axis, self.count_include_pad)
                      for axis in range(2))
        divisor = (rows[0], cols[0])
        if (rows != rows[0]).any() or (cols != cols[0]).any():
            diff_dst, divisor = _shares(b, diff_dst, rows, cols), (1, 1)
        for phase in phases(window, diff_src):
            pixels = phase_view(diff_src, phase, window.strides)
            divisors = np.repeat(divisor, pixels.shape[1:3])
            lower_pool(b, "avg", diff_dst, pixels, window.phase_taps(*phase), (1, 1), divisors)


class GlobalAvgPoolBackward(Layer):
    """Gradient of a mean over whole images: diff_dst / (H * W) at every pixel."""

    def __init__(self, src_shape: Shape, name: str):
        super().__init__(name=f"{name}/diff_src")
        self.src_shape = src_shape

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.src_shape

    def lower(self, b: PlanBuilder, node: Node) -> None:
        diff_dst, diff_src = b.view(node.inputs[0]), b.view(node.output)
        share = b.constant(np.full((1, 1, 1, 1), 1.0 / (diff_src.shape[1] * diff_src.shape[2]), np.float32))
        factors = [one_pixel(diff_dst).expanded(diff_src.shape), share.expanded(diff_src.shape)]
        row_step(b, "binary", factors, [diff_src], {"op": BINARY["multiply"]}, why="a share for each pixel")


def lower_pool(b: PlanBuilder, op: str, src: View, dst: View, taps: list[Tap], strides: Pair,
               divisors: np.ndarray | None = None, power: float = 1.0) -> None:
    """Append one pool; ``divisors`` of an average: of the OH rows, then of the OW columns."""
    sliding = SlidingWindow.of(b, src, dst, taps, strides, 1)
    sources = [src, sliding.table] + ([b.constant(divisors.astype(np.int64))] if divisors is not None else [])
    b.step("pool", sources, [dst], dict(sliding.params, op=OPS[op], power=power), tiles=sliding.tiles,
           scratch_bytes=16 * max(len(taps), 1), why=sliding.why)


def lower_global_avg(b: PlanBuilder, src: View, dst: View) -> None:
    """Append the mean over the rows and columns of ``src`` (N, H, W, C); ``dst`` is (N, 1, 1, C)."""
    n, h, w, c = src.shape
    # Four vectors at least: a sum over pixels waits for itself, and only its neighbours fill the time.
    channels = max(image_blocks((n, 1, 1, c), h * w)[1], 4 * b.vl)
    b.step("global_avg", [src], [dst], {"channels": channels}, tiles=n * ceil(c / channels), scratch_bytes=4 * channels,
           why=f"{channels} channels a tile")


def one_pixel(view: View) -> View:
    """(N, C) as images of one pixel; others as they are."""
    if len(view.shape) != 2:
        return view
    n, c = view.shape
    return View(view.storage, view.offset, (n, 1, 1, c), (view.strides[0], view.strides[0], view.strides[0], 1))


def overhang(window: Window2D, axis: int, src: Shape, dst: Shape) -> int:
    """Rows (axis 0) or columns (axis 1) that the last window reaches beyond the source."""
    last = ((dst[1 + axis] or 1) - 1) * window.strides[axis] + window_extent(window.kernel[axis], window.dilation[axis])
    return last - window.padding[axis][0] - (src[1 + axis] or 0)


def onnx_sums(b: OnnxBuilder, x: str, src: Value, attributes: dict[str, Any]) -> str:
    """Sums over windows of each channel, zero outside the source: a depthwise convolution with ones."""
    channels = b.extents(src)[2]
    ones = b.constant(np.ones((channels, 1, *attributes["kernel_shape"]), np.float32), "ones")
    return b.op("Conv", x, ones, group=channels, **attributes)


def _whole(shape: Shape) -> Window2D:
    return Window2D((shape[1] or 1, shape[2] or 1))


def _misses(size: int, out: int, window: Window2D, axis: int, before: int) -> bool:
    """Whether a window sees no pixel of the source; only the gaps of a dilated one can, and only near a border."""
    kernel, stride, dilation = window.kernel[axis], window.strides[axis], window.dilation[axis]
    if dilation == 1:
        return False
    leading = -(-before // stride)
    trailing = (size + before - window_extent(kernel, dilation)) // stride + 1
    near = [*range(min(leading, out)), *range(max(trailing, leading, 0), out)]
    return any(all(not 0 <= o * stride - before + k * dilation < size for k in range(kernel)) for o in near)


def _positions(out: int, window: Window2D, axis: int) -> np.ndarray:
    """Rows (axis 0) or columns (axis 1) of the source, or beyond it, that each of ``out`` windows sees: (out, kernel)."""
    tap = np.arange(window.kernel[axis]) * window.dilation[axis]
    return np.arange(out)[:, np.newaxis] * window.strides[axis] + tap - window.padding[axis][0]


def _windows_of(src: Shape, dst: Shape, window: Window2D, axis: int) -> np.ndarray:
    """By how many windows each row (axis 0) or column (axis 1) of the source is seen."""
    size, position = src[1 + axis] or 0, _positions(dst[1 + axis] or 0, window, axis)
    return np.bincount(position[(position >= 0) & (position < size)], minlength=size)


def _counts(src: Shape, dst: Shape, window: Window2D, axis: int, include_pad: bool) -> np.ndarray:
    """Rows (axis 0) or columns (axis 1) of each window that count: inside the source, or inside its padding too."""
    (before, after), size = window.padding[axis], src[1 + axis] or 0
    position = _positions(dst[1 + axis] or 0, window, axis)
    first, end = (-before, size + after) if include_pad else (0, size)
    return ((position >= first) & (position < end)).sum(axis=1)


def _shares(b: PlanBuilder, diff_dst: View, rows: np.ndarray, cols: np.ndarray) -> View:
    """diff_dst divided by what each window was divided by."""
    inverse = b.constant((1.0 / np.outer(rows, cols)).astype(np.float32)[np.newaxis, :, :, np.newaxis])
    shares = b.temp(diff_dst.shape)
    row_step(b, "binary", [diff_dst, inverse.expanded(diff_dst.shape)], [shares], {"op": BINARY["multiply"]},
             why="divided by what counted")
    return shares
