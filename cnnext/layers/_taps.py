"""Lowering of everything that is a weighted sum of taps: convolutions, dense layers, and their gradients.

A convolution is a list of taps (dh, dw, kh, kw): output pixel (oh, ow) adds source pixel (oh * SH + dh, ow * SW + dw)
times weights[kh, kw]. This module turns such lists into calls of the kernels in ``src/kernels/conv_direct.pyx`` and
chooses their blocking, from shapes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

from cnnext._native.executor import BINARY
from cnnext.geometry import PaddingPairs, window_extent
from cnnext.graph.graph import Epilogue
from cnnext.graph.memory import View
from cnnext.graph.plan import TILES_WANTED, PlanBuilder
from cnnext.layers._algorithms import (
    MIN_TILE_MACS,
    TILE_MACS,
    Algorithm,
    Pair,
    Tap,
    TapGradient,
    TapSum,
    cheapest,
    lower_cheapest,
    lower_sharded_gradient,
    pack_weights,
    panel_vectors,
    product_cycles,
    streaming_cycles,
    tile_pixels,
)
from cnnext.layers._pixels import Pixels, PixelsGradient
from cnnext.layers._rows import row_step
from cnnext.layers._winograd import Winograd, WinogradGradient
from cnnext.layers.layer import Band

PANEL_BLOCK_BYTES = 256 << 10   # weights of a K block: a quarter of a 1 MB L2, next to source rows and results
# A larger panel does not stay in L2 (1 to 2 MB): every tile streams it from L3 or memory, at 4 to 8 bytes a cycle, while a
# core does 32 to 64 FMAs in one; so many pixels share a weight that is read. CREPE's 64x1 on 1024 channels: 2.3x faster.
LARGEST_PANEL_BYTES, STREAMING_PIXELS = 1 << 20, 48
EDGE_CYCLES = 3.0           # a pixel of a panel wider than the result, which goes through a copy
RAGGED_CYCLES = 8.0         # in gradients of weights, one that is filled up with zeros
WINDOW_BYTES = 384 << 10    # copied source window of a tile: L2 again
PIXELS_PER_BLOCK = 256      # K of one backward-weights block: loading and storing the sums stays below 2 %


@dataclass(frozen=True)
class Window2D:
    """Geometry of a 2-D convolution, all resolved to pixels."""

    kernel: Pair
    strides: Pair = (1, 1)
    padding: PaddingPairs = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    flip: bool = False

    def turned(self) -> Window2D:
        """Rows and columns exchanged."""
        pairs = {name: getattr(self, name)[::-1] for name in ("kernel", "strides", "padding", "dilation")}
        return replace(self, **pairs)

    def taps(self) -> list[Tap]:
        """The taps of the forward pass, by rising (dh, dw)."""
        (kh, kw), (dil_h, dil_w) = self.kernel, self.dilation
        (top, _), (left, _) = self.padding
        return [
            (i * dil_h - top, j * dil_w - left, *self._weight_index(i, j)) for i in range(kh) for j in range(kw)
        ]

    def band(self, first: int, last: int, size: int) -> Band | None:
        """Rows ``first`` to ``last`` of the result from the rows of a source of ``size`` that they see.

        The rows beyond the image remain as padding. None where some could see padding alone.
        """
        (top, bottom), columns = self.padding
        extent = window_extent(self.kernel[0], self.dilation[0])
        if max(top, bottom) >= extent:
            return None
        begin = first * self.strides[0] - top
        end = (last - 1) * self.strides[0] - top + extent
        rows = max(begin, 0), min(end, size)
        # a last window of a pool reaches beyond the padding where sizes are rounded up
        return Band((rows,), (("padding", ((max(-begin, 0), max(min(end - size, bottom), 0)), columns)),))

    def phase_taps(self, row: int, col: int) -> list[Tap]:
        """The taps from diff_dst to the source pixels (SH * i + row, SW * j + col).

        Source pixel ih receives diff_dst[oh] through tap kh where oh * SH = ih + PT - kh * DH.
        """
        (top, _), (left, _) = self.padding
        rows = _phase(row, top, self.kernel[0], self.strides[0], self.dilation[0])
        cols = _phase(col, left, self.kernel[1], self.strides[1], self.dilation[1])
        return sorted((dh, dw, *self._weight_index(i, j)) for dh, i in rows for dw, j in cols)

    def _weight_index(self, i: int, j: int) -> Pair:
        return (self.kernel[0] - 1 - i, self.kernel[1] - 1 - j) if self.flip else (i, j)


def _phase(index: int, before: int, kernel: int, stride: int, dilation: int) -> list[Pair]:
    reach = [(index + before - k * dilation, k) for k in range(kernel)]
    return [(distance // stride, k) for distance, k in reach if distance % stride == 0]


def lower_convolution(b: PlanBuilder, src: View, weights: View, bias: View | None, dst: View, window: Window2D,
                      epilogue: Epilogue) -> None:
    """dst = epilogue(src * weights + bias); weights (KH, KW, IC//G, OC), all views of rank 4."""
    add = _like(b.view(epilogue.add), dst) if epilogue.add is not None else None
    flat = _as_dense(src, weights, dst, window)
    if flat is not None:
        (src, weights, dst), window = flat, Window2D((1, 1))
        add = add.reshaped(dst.shape) if add is not None else None
    elif _is_column(src, dst, window):
        (src, weights, dst), window = _turned(src, weights, dst), window.turned()
        add = _exchanged(add, 1) if add is not None else None
    _lower_taps(b, src, weights, bias, dst, window.taps(), window.strides, window.groups, False, epilogue, add)


def lower_gated(b: PlanBuilder, src: View, gate: View, weights: View, bias: View | None, dst: View,
                epilogue: Epilogue) -> None:
    """dst = epilogue((src * gate) * weights + bias) for pointwise weights (1, 1, IC, OC); ``gate`` (N, 1, 1, IC)."""
    add = _like(b.view(epilogue.add), dst) if epilogue.add is not None else None
    taps = Window2D((1, 1)).taps()
    src, dst, add = _flatten_pixels(src, dst, add, images=src.shape[0])
    lower_cheapest(b, TapSum(src, weights, bias, dst, taps, (1, 1), 1, False, epilogue, add, gate), ALGORITHMS)


def lower_pooled(b: PlanBuilder, src: View, weights: View, bias: View | None, dst: View, whole: View, window: Window2D,
                 epilogue: Epilogue) -> bool:
    """dst = the largest of each 2 x 2 pixels of epilogue(src * weights + bias), in one step; False where two are cheaper.

    ``whole`` is where the result of the convolution would lie.
    """
    both = TapSum(src, weights, bias, whole, window.taps(), window.strides, window.groups, False, epilogue, None)
    chosen, why = cheapest(b, both, ALGORITHMS)
    if isinstance(chosen, Pixels):
        chosen.lower(b, replace(both, dst=dst, pool=2), why)
    return isinstance(chosen, Pixels)


def lower_backward_data(b: PlanBuilder, diff_dst: View, weights: View, bias: View | None, diff_src: View,
                        window: Window2D, epilogue: Epilogue) -> None:
    """diff_src = epilogue(gradient of the convolution with respect to its source + bias), overwriting.

    One call per output phase: with strides (SH, SW), the source pixels of one residue see a sub-window of their own at
    stride 1. A transposed convolution is this with ``diff_src`` as its output.
    """
    add = _like(b.view(epilogue.add), diff_src) if epilogue.add is not None else None
    flat = _as_dense(diff_src, weights, diff_dst, window) if add is None and bias is None else None
    if flat is not None:
        (diff_src, weights, diff_dst), window = flat, Window2D((1, 1))
    elif _is_column(diff_src, diff_dst, window):
        (diff_src, weights, diff_dst), window = _turned(diff_src, weights, diff_dst), window.turned()
        add = _exchanged(add, 1) if add is not None else None
    if _is_blockwise(b, window, diff_src) and add is None:
        _lower_blocks(b, diff_dst, weights, bias, diff_src, window, epilogue)
        return
    stride_h, stride_w = window.strides
    for row in range(stride_h):
        for col in range(stride_w):
            phase = _phase_view(diff_src, row, col, window.strides)
            if phase.size:
                phase_add = _phase_view(add, row, col, window.strides) if add is not None else None
                _lower_taps(b, diff_dst, weights, bias, phase, window.phase_taps(row, col), (1, 1), window.groups, True,
                            epilogue, phase_add)


def _is_blockwise(b: PlanBuilder, window: Window2D, diff_src: View) -> bool:
    """Windows side by side, and so few channels that the phases together fill a vector that each alone would not."""
    side_by_side = window.kernel == window.strides != (1, 1) and window.padding == ((0, 0), (0, 0))
    whole = all(n % k == 0 for n, k in zip(diff_src.shape[1:3], window.kernel, strict=True))
    return side_by_side and whole and window.groups == 1 and window.dilation == (1, 1) and diff_src.shape[3] < b.vl


def _lower_blocks(b: PlanBuilder, diff_dst: View, weights: View, bias: View | None, diff_src: View, window: Window2D,
                  epilogue: Epilogue) -> None:
    """All phases as one pointwise convolution to KH * KW * OC channels, which are then dealt out to their pixels.

    A last layer 24 -> 1 of 2 x 2 windows on 320 x 320 pixels takes a sixth of the time of its four phases.
    """
    (n, ih, iw, _), (kh, kw), oc = diff_dst.shape, window.kernel, diff_src.shape[3]
    matrix = weights.reshaped((1, 1, kh * kw * oc, weights.shape[3]))
    assert matrix is not None, "weights are dense"
    if bias is not None:
        repeated = b.temp((kh * kw, oc))
        row_step(b, "copy", [bias.expanded((kh * kw, oc))], [repeated], why="bias of each phase", strided=True)
        bias = repeated.reshaped((kh * kw * oc,))
    blocks = b.temp((n, ih, iw, kh * kw * oc))
    _lower_taps(b, diff_dst, matrix, bias, blocks, [(0, 0, 0, 0)], (1, 1), 1, True, epilogue, None)
    source = View.dense(blocks.storage, (n, ih, iw, kh, kw, oc)).permuted((0, 1, 3, 2, 4, 5))
    sn, sh, sw, sc = diff_src.strides
    target = View(diff_src.storage, diff_src.offset, source.shape, (sn, kh * sh, sh, kw * sw, sw, sc))
    row_step(b, "copy", [source], [target], why=f"{kh}x{kw} pixels of each block", strided=True)


def _as_dense(src: View, weights: View, dst: View, window: Window2D) -> tuple[View, View, View] | None:
    """A window that covers its whole source once is a dense layer: views of source, weights and result as matrices.

    As a convolution its backward-data pass would multiply mostly by zeros: each of the KH * KW source pixels sees one tap,
    the tile computes all. None where it is no such window, or the memory does not allow it.
    """
    covers = window.kernel == src.shape[1:3] and dst.shape[1:3] == (1, 1) and window.padding == ((0, 0), (0, 0))
    if not covers or window.kernel == (1, 1) or window.groups != 1 or window.dilation != (1, 1) or window.flip:
        return None
    n, depth = src.shape[0], prod(src.shape[1:])
    views = (src.reshaped((1, 1, n, depth)), weights.reshaped((1, 1, depth, dst.shape[3])),
             dst.reshaped((1, 1, n, dst.shape[3])))
    if views[0] is None or views[1] is None or views[2] is None:
        return None
    return views[0], views[1], views[2]


def _is_column(src: View, dst: View, window: Window2D) -> bool:
    """Images of one column, such as sound in a 2-D network: strips of pixels are rows, here of one pixel each."""
    return (src.shape[2] == dst.shape[2] == window.kernel[1] == 1 and dst.shape[1] > 1
            and window.padding[1] == (0, 0))


def _turned(src: View, weights: View, dst: View) -> tuple[View, View, View]:
    """Views of the same memory with rows for columns; of the two axes that change places, one has one element."""
    return _exchanged(src, 1), _exchanged(weights, 0), _exchanged(dst, 1)


def _exchanged(view: View, axis: int) -> View:
    shape = list(view.shape)
    shape[axis], shape[axis + 1] = shape[axis + 1], shape[axis]
    canonical = view.reshaped(tuple(shape))
    axes = (0, 2, 1, 3) if axis else (1, 0, 2, 3)
    return canonical if canonical is not None else view.permuted(axes)


def _like(add: View, dst: View) -> View:
    # What is added has the shape that the graph knows; the kernel sees both as images.
    view = add if add.shape == dst.shape else add.reshaped(dst.shape)
    assert view is not None, "an epilogue adds a value laid out like its own"
    return view


def _phase_view(view: View, row: int, col: int, strides: Pair) -> View:
    return view.sliced(1, row, view.shape[1], strides[0]).sliced(2, col, view.shape[2], strides[1])


def _lower_taps(b: PlanBuilder, src: View, weights: View, bias: View | None, dst: View, taps: Sequence[Tap],
                strides: Pair, groups: int, backward: bool, epilogue: Epilogue, add: View | None) -> None:
    if [t[:2] for t in taps] == [(0, 0)] and strides == (1, 1) and src.shape[:3] == dst.shape[:3]:
        src, dst, add = _flatten_pixels(src, dst, add)
    lower_cheapest(b, TapSum(src, weights, bias, dst, taps, strides, groups, backward, epilogue, add), ALGORITHMS)


class Direct:
    """The sum as it is written: any taps, strides and groups."""

    name = "direct"

    def refusal(self, b: PlanBuilder, s: TapSum) -> str:
        """Never: it computes all."""
        return ""

    def cost(self, b: PlanBuilder, s: TapSum) -> float:
        """Products against the weights that stream in meanwhile."""
        nv = panel_vectors(b, s.filters)
        depth, width = len(s.taps) * s.channels, ceil(s.filters / (nv * b.vl)) * nv * b.vl
        pixels = s.dst.shape[0] * s.dst.shape[1] * s.dst.shape[2]
        ragged = EDGE_CYCLES * pixels if s.filters % (nv * b.vl) else 0.0
        return max(s.groups * (product_cycles(b, pixels, depth, width) + ragged),
                   streaming_cycles(4 * s.groups * depth * width, ceil(pixels / STREAMING_PIXELS)))

    def lower(self, b: PlanBuilder, s: TapSum, why: str) -> None:
        """One step, after the packing of the weights."""
        k, oc, groups = s.channels, s.filters, s.groups
        nv = panel_vectors(b, oc)
        panels = ceil(oc / (nv * b.vl))
        packed, bias = pack_weights(b, s, nv)
        if s.gate is not None:
            packed = _gated(b, packed, s.gate)
        tile = _Tile.choose(b, s.src, s.dst, s.taps, s.strides, k, groups * panels, nv)
        params = dict(
            G=groups, IC=k, OC=oc, SH=s.strides[0], SW=s.strides[1], n_seg=len(tile.segments), seg_len=tile.seg_len,
            seg_block=tile.seg_block, nv=nv, panels=panels, rows=tile.rows, cols=tile.cols,
            panel_block=tile.panel_block, image_step=packed.strides[0] if s.gate is not None else 0, copy=tile.copy,
            dh_min=tile.dh_min, dw_min=tile.dw_min, copy_rows=tile.copy_rows, copy_cols=tile.copy_cols,
            copy_ld=tile.copy_ld, copy_row=tile.copy_row,
            **s.epilogue_params(),
        )
        sources = [s.src, packed, b.table(tile.segments or [(0, 0, 0)])]
        sources += [bias] if bias is not None else []
        sources += [s.add] if s.add is not None else []
        tiles = (s.dst.shape[0] * ceil(s.dst.shape[1] / tile.rows) * ceil(s.dst.shape[2] / tile.cols)
                 * ceil(groups * panels / tile.panel_block))
        b.step("conv_direct", sources, [s.dst], params, tiles=tiles, scratch_bytes=tile.scratch_bytes,
               macs=s.macs, why=tile.why(nv, b.tile_rows[nv - 1]) + why)


def _gated(b: PlanBuilder, packed: View, gate: View) -> View:
    """Packed weights (panels, IC, width) for each image, each of its source channels times the gate."""
    images, channels = gate.shape[0], gate.shape[3]
    shape = (images, *packed.shape)
    factors = View(gate.storage, gate.offset, (images, 1, channels, 1), (gate.strides[0], 0, gate.strides[3], 0))
    result = b.temp(shape)
    row_step(b, "binary", [packed.expanded(shape), factors.expanded(shape)], [result], {"op": BINARY["multiply"]},
             why=f"gate of {channels} channels into weights")
    return result


ALGORITHMS: tuple[Algorithm[TapSum], ...] = (Direct(), Pixels(), Winograd(4), Winograd(2))


def _flatten_pixels(src: View, dst: View, add: View | None, images: int = 1) -> tuple[View, View, View | None]:
    # A pointwise convolution has no rows: all pixels (of each image) are one strip, where their strides allow.
    flat = [(images, 1, v.shape[0] * v.shape[1] * v.shape[2] // images, v.shape[3]) for v in (src, dst)]
    views = [src.reshaped(flat[0]), dst.reshaped(flat[1]), add.reshaped(flat[1]) if add is not None else None]
    if views[0] is None or views[1] is None or (add is not None and views[2] is None):
        return src, dst, add
    return views[0], views[1], views[2]


def _merged_runs(taps: Sequence[Tap]) -> int:
    """Length of the runs of neighbouring pixels that the taps fall into, if all runs are equally long; else 1."""
    if not taps:
        return 1
    rows: dict[int, list[int]] = {}
    for dh, dw, _, _ in taps:
        rows.setdefault(dh, []).append(dw)
    first = next(iter(rows.values()))
    even = all(len(cols) == len(first) and cols == list(range(cols[0], cols[0] + len(cols))) for cols in rows.values())
    return len(first) if even else 1


@dataclass(frozen=True)
class _SourceWindow:
    """How a tile reads its source: directly or through a copied window, and as which segments of K."""

    copy: bool
    run: int            # neighbouring taps merged into one segment
    copy_ld: int
    dh_min: int
    dw_min: int
    span_h: int
    span_w: int

    @staticmethod
    def choose(src: View, dst_shape: Sequence[int], taps: Sequence[Tap], strides: Pair, k: int) -> _SourceWindow:
        rows, cols = [t[0] for t in taps] or [0], [t[1] for t in taps] or [0]
        dh_min, dw_min = min(rows), min(cols)
        leaves = (dh_min < 0 or dw_min < 0 or (dst_shape[1] - 1) * strides[0] + max(rows) >= src.shape[1]
                  or (dst_shape[2] - 1) * strides[1] + max(cols) >= src.shape[2])
        run = _merged_runs(taps)
        contiguous = src.strides[2] == k or src.shape[2] == 1
        # Segments shorter than 64 make the per-segment work of the tile show; then a dense window is worth its copy.
        copy = bool(taps) and (leaves or (run > 1 and k < 16 and not contiguous))
        merge = run > 1 and (k < 64 if copy else contiguous)
        ld = k if merge or k % 256 else k + 16
        return _SourceWindow(copy, run if merge else 1, ld, dh_min, dw_min, max(rows) - dh_min + 1,
                             max(cols) - dw_min + 1)

    def extent(self, rows: int, cols: int, strides: Pair) -> tuple[int, int, int]:
        """Rows, columns and row stride of the window that a tile of rows x cols outputs reads."""
        copy_rows = (rows - 1) * strides[0] + self.span_h
        copy_cols = (cols - 1) * strides[1] + self.span_w
        row = copy_cols * self.copy_ld
        return copy_rows, copy_cols, row + 16 if row % 256 == 0 else row


@dataclass(frozen=True)
class _Tile:
    """Blocking of one ``conv_direct`` call."""

    rows: int
    cols: int
    panel_block: int
    segments: list[tuple[int, int, int]]
    seg_len: int
    seg_block: int
    copy: bool
    dh_min: int
    dw_min: int
    copy_rows: int
    copy_cols: int
    copy_ld: int
    copy_row: int

    @staticmethod
    def choose(b: PlanBuilder, src: View, dst: View, taps: Sequence[Tap], strides: Pair, k: int, n_panels: int,
               nv: int) -> _Tile:
        width = nv * b.vl
        depth = max(len(taps) * k, 1)
        window = _SourceWindow.choose(src, dst.shape, taps, strides, k)
        seg_len = window.run * k
        segments = [(dh, dw, 0) for dh, dw, _, _ in taps[:: window.run]]
        panel_bytes = depth * width * 4
        panel_block = n_panels if n_panels * panel_bytes <= 2 * PANEL_BLOCK_BYTES else max(
            1, PANEL_BLOCK_BYTES // panel_bytes)
        total = dst.shape[0] * dst.shape[1] * dst.shape[2] * depth * n_panels * width
        macs = min(TILE_MACS, max(total // b.tiles_wanted, MIN_TILE_MACS))
        if panel_bytes > LARGEST_PANEL_BYTES:
            macs = max(macs, STREAMING_PIXELS * depth * width)
        per_pixel = depth * panel_block * width
        rows, cols = tile_pixels(dst.shape, macs // per_pixel, b.tile_rows[nv - 1])
        if window.copy:
            while rows > 1 and window.extent(rows, cols, strides)[0] * window.extent(rows, cols, strides)[2] * 4 > (
                    WINDOW_BYTES):
                rows = ceil(rows / 2)
        copy_rows, copy_cols, copy_row = window.extent(rows, cols, strides)
        return _Tile(rows, cols, panel_block, segments, seg_len, max(1, PANEL_BLOCK_BYTES // max(seg_len * width * 4, 1)),
                     window.copy, window.dh_min, window.dw_min, copy_rows, copy_cols, window.copy_ld, copy_row)

    @property
    def scratch_bytes(self) -> int:
        return 8 * (ceil(len(self.segments) / 8) * 8) + (4 * self.copy_rows * self.copy_row if self.copy else 0)

    def why(self, nv: int, tile_rows: int) -> str:
        """One line for ``plan.explain()``."""
        source = "window copied with its border" if self.copy else "read in place"
        return (f"direct: tile {tile_rows}x{nv} vectors, K in {len(self.segments)} segments of {self.seg_len}, source "
                f"{source}, {self.rows}x{self.cols} pixels a tile")


def lower_backward_weights(b: PlanBuilder, src: View, diff_dst: View, diff_weights: View, window: Window2D) -> None:
    """diff_weights (KH, KW, IC//G, OC) = gradient of the convolution with respect to its weights, overwriting."""
    flat = _as_dense(src, diff_weights, diff_dst, window)
    if flat is not None:
        (src, diff_weights, diff_dst), window = flat, Window2D((1, 1))
    elif _is_column(src, diff_dst, window):
        (src, diff_weights, diff_dst), window = _turned(src, diff_weights, diff_dst), window.turned()
    taps = window.taps()
    if taps == [(0, 0, 0, 0)] and window.strides == (1, 1) and src.shape[:3] == diff_dst.shape[:3]:
        src, diff_dst, _ = _flatten_pixels(src, diff_dst, None)
    gradient = TapGradient(src, diff_dst, diff_weights, taps, window.strides, window.groups)
    lower_cheapest(b, gradient, GRADIENT_ALGORITHMS)


class DirectGradient:
    """The sum over pixels as it is written: any taps, strides and groups."""

    name = "direct"

    def refusal(self, b: PlanBuilder, s: TapGradient) -> str:
        """Never: it computes all."""
        return ""

    def cost(self, b: PlanBuilder, s: TapGradient) -> float:
        """Products of whole panels."""
        nv = panel_vectors(b, s.filters)
        pixels, width = s.diff_dst.size // s.diff_dst.shape[3], ceil(s.filters / (nv * b.vl)) * nv * b.vl
        ragged = RAGGED_CYCLES * pixels if s.filters % (nv * b.vl) else 0.0
        return s.groups * (product_cycles(b, len(s.taps) * s.channels, pixels, width) + ragged)

    def lower(self, b: PlanBuilder, s: TapGradient, why: str) -> None:
        """One step, and the sum of the shards."""
        ic, oc, kw = s.channels, s.filters, s.diff_weights.shape[1]
        source = _SourceWindow.choose(s.src, s.diff_dst.shape, s.taps, s.strides, ic)
        rising = [kh * kw + col for _, _, kh, col in s.taps] == list(range(len(s.taps)))
        if not rising:  # turned windows: neighbouring pixels do not lie beside neighbouring weights
            source = replace(source, run=1)
        table = [(dh, dw, 0, (kh * kw + col) * ic) for dh, dw, kh, col in s.taps[:: source.run]]
        nv = panel_vectors(b, oc)
        panels = ceil(oc / (nv * b.vl))
        rows, cols = _gradient_block(s.diff_dst.shape)
        copy_rows, copy_cols, copy_row = source.extent(rows, cols, s.strides)
        blocks = s.diff_dst.shape[0] * ceil(s.diff_dst.shape[1] / rows) * ceil(s.diff_dst.shape[2] / cols)
        shards = max(1, min(ceil(TILES_WANTED / (s.groups * panels)), blocks, s.macs // (4 * MIN_TILE_MACS)))
        params = dict(
            G=s.groups, IC=ic, OC=oc, SH=s.strides[0], SW=s.strides[1], n_seg=len(table), seg_len=source.run * ic,
            nv=nv, panels=panels, rows=rows, cols=cols, panel_block=1, shards=shards, copy=source.copy,
            dh_min=source.dh_min, dw_min=source.dw_min, copy_rows=copy_rows, copy_cols=copy_cols,
            copy_ld=source.copy_ld, copy_row=copy_row,
        )
        scratch = 8 * (ceil(rows / 8) * 8) + 4 * rows * cols * nv * b.vl + (4 * copy_rows * copy_row if source.copy else 0)
        lower_sharded_gradient(b, "conv_backward_weights", s, [b.table(table)], params, shards, s.groups * panels, scratch,
                               f"direct: {shards} shards of the {blocks} pixel blocks{why}")


GRADIENT_ALGORITHMS: tuple[Algorithm[TapGradient], ...] = (
    DirectGradient(), PixelsGradient(), WinogradGradient(4), WinogradGradient(2))


def _gradient_block(shape: Sequence[int]) -> Pair:
    _, oh, ow, _ = shape
    if ow >= PIXELS_PER_BLOCK:
        return 1, PIXELS_PER_BLOCK if oh == 1 else ow
    return max(1, min(oh, PIXELS_PER_BLOCK // max(ow, 1))), ow
