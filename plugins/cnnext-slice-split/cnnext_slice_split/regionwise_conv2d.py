"""A convolution with kernels of its own for each region of a grid: ``RegionwiseConv2D``."""

from __future__ import annotations

from math import prod

from cnnext.geometry import PaddingPairs, resolve_padding, window_extent
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.layers._taps import Window2D
from cnnext.layers._windows import receptive_window
from cnnext.layers.attributes import Pair, activation, boolean, data_format, integer, padding, pair
from cnnext.layers.conv2d import Conv2D, output_size
from cnnext.layers.layer import Layer, ParameterSpec, Window
from cnnext_slice_split.boxes import Boxes, Range, grid_edges
from cnnext_slice_split.grid_join import GridJoin


class RegionwiseConv2D(Layer):
    """2-D convolution whose result is cut by a grid, each region made by a kernel of its own.

    As in a convolution, the windows of a region reach over its border into its neighbours; only the weights change there.
    With one region it is a ``Conv2D``, with a region for each pixel a ``LocallyConnected2D``.

    Parameters
    ----------
    filters : int
        Output channels OC.
    kernel_size : int or (rows, columns)
    grid : int or (rows, columns)
        Regions of the result; their extents differ by one pixel at most.
    strides, padding, dilation, use_bias, activation, data_format
        As in ``Conv2D``.

    Weights
    -------
    for region (i, j) of the grid: weights_i_j (KH, KW, IC, OC), bias_i_j (OC,)

    References
    ----------
    Region-wise weight sharing lies between LeCun 1989, "Generalization and network design strategies", section 5.3
    (local connections), and Gregor & LeCun 2010, "Emergence of complex-like cells", arXiv 1006.0448.
    """

    type_name = "slice-split/RegionwiseConv2D@1"
    onnx_as_composed = True

    filters: int = integer(minimum=1)
    kernel_size: Pair = pair()
    grid: Pair = pair(2)
    strides: Pair = pair(1)
    padding: str | PaddingPairs = padding("same")
    dilation: Pair = pair(1)
    use_bias: bool = boolean(True)
    activation: str | Layer | None = activation()
    data_format: str = data_format()

    def validate(self) -> None:
        spans = [window_extent(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        if not isinstance(self.padding, str) and any(max(p) >= n for p, n in zip(self.padding, spans, strict=True)):
            raise self.error("padding", f"be smaller than the window, which spans {tuple(spans)}", self.padding)

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        channels, taps = shapes[0][3], prod(self.kernel_size)
        if channels is None:
            raise self.error("src", "have a known number of channels", *shapes)
        specs = {}
        for key in self._keys():
            specs[f"weights_{key}"] = ParameterSpec((*self.kernel_size, channels, self.filters), "glorot_uniform",
                                                    taps * channels, taps * self.filters)
            if self.use_bias:
                specs[f"bias_{key}"] = ParameterSpec((self.filters,), "zeros")
        return specs

    def _keys(self) -> list[str]:
        return [f"{i}_{j}" for i in range(self.grid[0]) for j in range(self.grid[1])]

    def output_shape(self, *shapes: Shape) -> Shape:
        (src,) = shapes
        if len(src) != 4:
            raise self.error("src", "have rank 4, (N, H, W, C)", src)
        pads = resolve_padding(self.padding, (src[1] or 1, src[2] or 1), self.kernel_size, self.strides, self.dilation)
        window = Window2D(self.kernel_size, self.strides, pads, self.dilation)
        out = (src[0], *(output_size(self, src[1 + axis], window, axis, src) for axis in range(2)), self.filters)
        if any(n is not None and parts > n for n, parts in zip(out[1:3], self.grid, strict=True)):
            raise self.error("grid", f"leave every region a pixel of the result {out}", self.grid, src)
        return out

    def compose(self, g: Graph, *x: Value, weights: dict[str, Value]) -> Value:
        (src,) = x
        out = self.output_shape(src.shape)
        rows, cols = (self._sources(axis, src.shape, out) for axis in range(2))
        cut = Boxes([(row, col, (0, None)) for row, _ in rows for col, _ in cols], f"{self.name}/regions")
        pads = [(row, col) for _, row in rows for _, col in cols]
        regions = []
        for key, region, pad in zip(self._keys(), g.apply(cut, src), pads, strict=True):
            conv = Conv2D(self.filters, self.kernel_size, self.strides, pad, self.dilation, use_bias=self.use_bias,
                          activation=self.activation, name=f"{self.name}/{key}")
            own = {"weights": weights[f"weights_{key}"]} | ({"bias": weights[f"bias_{key}"]} if self.use_bias else {})
            regions.append(g.apply1(conv, region, weights=own))
        return g.apply1(GridJoin(self.grid, name=f"{self.name}/joined"), *regions)

    def _sources(self, axis: int, src: Shape, out: Shape) -> list[tuple[Range, Pair]]:
        """For each row (axis 0) or column (axis 1) of the grid: the source that its windows reach, and their padding."""
        size = (src[1] or 0, src[2] or 0)
        before = resolve_padding(self.padding, size, self.kernel_size, self.strides, self.dilation)[axis][0]
        extent = window_extent(self.kernel_size[axis], self.dilation[axis])
        found: list[tuple[Range, Pair]] = []
        for first, end in grid_edges(out[1 + axis], self.grid[axis]):
            assert end is not None
            start = first * self.strides[axis] - before
            stop = (end - 1) * self.strides[axis] - before + extent
            low, high = min(max(start, 0), size[axis] - 1), max(min(stop, size[axis]), 1)
            found.append(((low, high), (low - start, stop - high)))
        return found

    @property
    def window(self) -> Window:
        return receptive_window(self.kernel_size, self.strides, self.dilation, self.padding)

    def macs(self, node: Node) -> int:
        return prod(n or 1 for n in node.output.shape) * prod(self.kernel_size) * (node.inputs[0].shape[3] or 1)
