"""Convolution: ``Conv2D`` and ``Conv1D``, with the operators of their gradients."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from cnnext.geometry import PaddingPairs, axis_output_size, resolve_padding, window_extent
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder, no_epilogue
from cnnext.layers._taps import Window2D, lower_backward_data, lower_backward_weights, lower_convolution, lower_gated
from cnnext.layers._weighted import BackwardData, BackwardWeights, fold_into_weights, weighted_gradient, weights_and_bias
from cnnext.layers._windows import onnx_window
from cnnext.layers.attributes import Pair, activation, boolean, data_format, initializer, integer, padding, pair, regularizer
from cnnext.layers.layer import Band, Gradients, Images, Layer, ParameterSpec, Window

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder
    from cnnext.training.regularizers import L1L2


class Convolution(Layer):
    """What the convolutions of one and two dimensions share; a 1-D source is an image of one row."""

    rank: ClassVar[int] = 2
    accepts_epilogue = True

    filters: int = integer(minimum=1)
    kernel_size: Pair = pair()
    strides: Pair = pair(1)
    padding: str | PaddingPairs = padding()
    dilation: Pair = pair(1)
    groups: int = integer(1, minimum=1)
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    flip_kernel: bool = boolean(False)
    strict: bool = boolean(False)
    data_format: str = data_format()
    kernel_initializer: Any = initializer("glorot_uniform")
    bias_initializer: Any = initializer("zeros")
    kernel_regularizer: L1L2 | None = regularizer()
    bias_regularizer: L1L2 | None = regularizer()

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels = self.channels(shapes[0])
        kernel = self.window_size()[2 - self.rank :]
        taps = prod(kernel)
        fan_in, fan_out = taps * channels // self.groups, taps * self.filters // self.groups
        return weights_and_bias(self, (*kernel, channels // self.groups, self.filters), fan_in, fan_out, (self.filters,))

    def channels(self, shape: Shape) -> int:
        """Channels of the source, checked against rank and groups."""
        if len(shape) != self.rank + 2:
            axes = "(N, L, C)" if self.rank == 1 else "(N, H, W, C)"
            raise self.error("src", f"have rank {self.rank + 2}, {axes}", shape)
        channels = shape[-1]
        if not channels:
            raise self.error("src", "have a known number of channels", shape)
        if channels % self.groups:
            raise self.error("groups", "divide the channels of the source", self.groups, shape)
        if self.filters % self.groups:
            raise self.error("groups", "divide `filters`", self.groups, shape)
        return channels

    def window_size(self) -> Pair:
        """Rows and columns of the window."""
        return self.kernel_size

    def geometry(self, shape: Shape) -> Window2D:
        """The window with its padding resolved for a source shape."""
        image = image_shape(shape)
        size = (image[1] or 1, image[2] or 1)
        strides, dilation = self.strides, self.dilation
        pads = resolve_padding(self.padding, size, self.window_size(), strides, dilation)
        return Window2D(self.window_size(), strides, pads, dilation, self.groups, self.flip_kernel)

    def output_shape(self, *shapes: Shape) -> Shape:
        self.channels(shapes[0])
        image = image_shape(shapes[0])
        window = self.geometry(shapes[0])
        spatial = [
            output_size(self, image[1 + axis], window, axis, shapes[0]) for axis in range(2 - self.rank, 2)
        ]
        return (image[0], *spatial, self.filters)

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        src_shape, weights_shape = node.inputs[0].shape, node.weights["weights"].shape
        window = self.geometry(src_shape)
        return weighted_gradient(g, node, diff_dst[0], ConvolutionBackwardData(src_shape, self.name, window),
                                 ConvolutionBackwardWeights(weights_shape, self.name, window))

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src = b.view(node.inputs[0])
        bias = b.view(node.weights["bias"]) if "bias" in node.weights else None
        lower_convolution(b, image_view(src), weights_view(b.view(node.weights["weights"])), bias,
                          image_view(b.view(node.output)), self.geometry(src.shape), no_epilogue(node))

    def band(self, node: Node, first: int, last: int) -> Band | None:
        shape = node.inputs[0].shape
        window = self.geometry(shape)
        if self.rank != 2 or is_winograd_window(window):   # whose groups of tiles are cut as they fit L2 already
            return None
        return window.band(first, last, shape[1] or 0)

    def images(self, node: Node) -> Images | None:
        return convolution_images(node, self.geometry(node.inputs[0].shape))

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        (src,) = node.inputs
        window = self.geometry(src.shape)
        *kernel, channels, filters = range(self.rank + 2)
        weights = b.weight(node.weights["weights"], (filters, channels, *kernel), flip=kernel if self.flip_kernel else ())
        b.result_first(node.output, "Conv", [b.get_first(src), weights, *b.weights_of(node, "bias")], group=self.groups,
                       **onnx_window(window, src.shape, self.padding))

    def fold_affine(self, g: Graph, node: Node, scale: Value, shift: Value) -> dict[str, Value] | None:
        return fold_into_weights(g, node, scale, shift)

    @property
    def window(self) -> Window:
        before = self.padding if isinstance(self.padding, tuple) else None
        pads = (before[0][0], before[1][0]) if before else (0, 0)
        if self.padding == "same":
            extent = [window_extent(k, d) for k, d in zip(self.window_size(), self.dilation, strict=True)]
            pads = ((extent[0] - 1) // 2, (extent[1] - 1) // 2)
        return Window(self.window_size(), self.strides, self.dilation, pads)

    def macs(self, node: Node) -> int:
        channels = node.inputs[0].shape[-1] or 0
        return _size(node.output.shape) * prod(self.window_size()) * channels // self.groups


class Conv2D(Convolution):
    """2-D convolution (cross-correlation) of ``(N, H, W, C)`` with a bank of filters.

    ``dst[n, oh, ow, oc] = bias[oc] + sum over kh, kw, ic of
    src[n, oh*SH + kh*DH - PT, ow*SW + kw*DW - PL, ic] * weights[kh, kw, ic, oc]``, zero outside the source.

    Parameters
    ----------
    filters : int
        Output channels OC.
    kernel_size, strides, dilation : int or (rows, columns)
    padding : "valid", "same" or ((top, bottom), (left, right))
        ``"same"`` gives ceil(size / stride) outputs, the odd pixel of padding after (TensorFlow's rule).
    groups : int
        Output channel group g sees input channel group g alone.
    use_bias : bool
    activation : str or layer, optional
        Applied in the kernel's epilogue.
    flip_kernel : bool
        True convolution: the window is rotated by 180 degrees.
    strict : bool
        Refuse a source of which the strided window would leave rows or columns unread.
    data_format : "channels_last" or "channels_first"
    kernel_initializer, bias_initializer : str, Initializer, array or function of a shape
        How weights and bias begin: "he_normal", ``cx.Orthogonal()``, ... (``cnnext.training.initializers``). Files keep what
        was made of it.
    kernel_regularizer, bias_regularizer : str or L1L2, optional
        A penalty that training adds to the loss: "l2", ``cx.L2(1e-4)``.

    Weights
    -------
    weights (KH, KW, IC//groups, OC), bias (OC,)
    """

    type_name = "cnnext/Conv2D@1"


class GatedConv2D(Conv2D):
    """A pointwise ``Conv2D`` of ``src * gate``: inputs (N, H, W, IC) and (N, 1, 1, IC).

    Each image has weights of its own, those of the layer times its gate: IC * OC products instead of H * W * IC.
    """

    n_inputs = 2

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, gate = (b.view(v) for v in node.inputs)
        bias = b.view(node.weights["bias"]) if "bias" in node.weights else None
        lower_gated(b, src, gate, b.view(node.weights["weights"]), bias, b.view(node.output), no_epilogue(node))

    def band(self, node: Node, first: int, last: int) -> Band | None:
        return Band(((first, last), None))

    def fold_affine(self, g: Graph, node: Node, scale: Value, shift: Value) -> dict[str, Value] | None:
        return None


class Conv1D(Convolution):
    """1-D convolution of ``(N, L, C)``; the rules of ``Conv2D`` along one axis.

    ``padding`` is ``"valid"``, ``"same"``, or a whole number or pair (before, after); also ``"causal"``-style
    ``(extent - 1, 0)``. Weights (K, IC//groups, OC), bias (OC,).
    """

    type_name = "cnnext/Conv1D@1"
    rank = 1
    kernel_size: Any = integer(minimum=1)
    strides: Any = integer(1, minimum=1)
    dilation: Any = integer(1, minimum=1)
    padding: Any = padding()

    def validate(self) -> None:
        if isinstance(self.padding, tuple):
            # (before, after) was read as rows and columns; both of a symmetric pair agree
            self.padding = (self.padding[0][0], self.padding[1][0])

    def window_size(self) -> Pair:
        return 1, self.kernel_size

    def geometry(self, shape: Shape) -> Window2D:
        length = shape[1] or 1
        pads: Any = self.padding if isinstance(self.padding, str) else ((0, 0), self.padding)
        resolved = resolve_padding(pads, (1, length), self.window_size(), (1, self.strides), (1, self.dilation))
        return Window2D(self.window_size(), (1, self.strides), resolved, (1, self.dilation), self.groups,
                        self.flip_kernel)

    @property
    def window(self) -> Window:
        before = self.padding[0] if isinstance(self.padding, tuple) else 0
        if self.padding == "same":
            before = (window_extent(self.kernel_size, self.dilation) - 1) // 2
        return Window(self.window_size(), (1, self.strides), (1, self.dilation), (0, before))


class ConvolutionBackwardData(BackwardData):
    """Gradient of a convolution with respect to its source."""

    accepts_epilogue = True

    def images(self, node: Node) -> Images | None:
        return convolution_images(node, self.geometry)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        diff_dst, weights = (b.view(v) for v in node.inputs)
        lower_backward_data(b, image_view(diff_dst), weights_view(weights), None, image_view(b.view(node.output)),
                            self.geometry, no_epilogue(node))


class ConvolutionBackwardWeights(BackwardWeights):
    """Gradient of a convolution with respect to its weights."""

    def lower(self, b: PlanBuilder, node: Node) -> None:
        src, diff_dst = (image_view(b.view(v)) for v in node.inputs)
        lower_backward_weights(b, src, diff_dst, weights_view(b.view(node.output)), self.geometry)


def convolution_images(node: Node, window: Window2D) -> Images | None:
    """What ``Layer.images`` says of a convolution; Winograd's algorithms want the tiles of all images together."""
    return None if is_winograd_window(window) else Images((True, *[False] * (len(node.inputs) - 1)))


def is_winograd_window(window: Window2D) -> bool:
    """Whether Winograd's algorithms may compute the convolution."""
    return (window.kernel, window.strides, window.dilation, window.groups) == ((3, 3), (1, 1), (1, 1), 1)


def output_size(layer: Layer, size: int | None, window: Window2D, axis: int, shape: Shape,
                ceil_mode: bool = False) -> int | None:
    """Rows (axis 0) or columns (axis 1) of a window layer's output, with the layer named in the error."""
    if size is None:
        return None
    kernel, stride, dilation = window.kernel[axis], window.strides[axis], window.dilation[axis]
    padding = getattr(layer, "padding", "valid")
    pads = "same" if padding == "same" else window.padding[axis]
    names = ("pool_size" if hasattr(layer, "pool_size") else "kernel_size", "strides")
    return axis_output_size(layer.where, size, kernel, stride, pads, dilation, ceil_mode, getattr(layer, "strict", False),
                            names, f"source shape {shape}")


def image_shape(shape: Shape) -> Shape:
    """(N, L, C) as (N, 1, L, C); other shapes as they are."""
    return (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape


def image_view(view: View) -> View:
    """A view of rank 3 as an image of one row."""
    if len(view.shape) != 3:
        return view
    n, length, channels = view.shape
    return View(view.storage, view.offset, (n, 1, length, channels), (view.strides[0], view.strides[0], *view.strides[1:]))


def weights_view(view: View) -> View:
    """Weights (K, IC, OC) as (1, K, IC, OC)."""
    if len(view.shape) != 3:
        return view
    return View(view.storage, view.offset, (1, *view.shape), (view.size, *view.strides))


def _size(shape: Shape) -> int:
    return prod(n or 1 for n in shape)
