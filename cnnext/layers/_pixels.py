"""Convolutions to few filters, and the gradients of their weights, with pixels in the lanes: applicability, cost, blocking.

The kernel is in ``src/kernels/conv_pixels.pyx``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from cnnext.graph.plan import TILES_WANTED, PlanBuilder
from cnnext.layers._algorithms import (
    MIN_TILE_MACS,
    TILE_EFFICIENCY,
    TILE_MACS,
    Pair,
    TapGradient,
    TapSum,
    lower_sharded_gradient,
    pack_weights,
    product_cycles,
    tile_pixels,
)

PLANES_BYTES = 128 << 10    # source planes of a tile: a part of L2
VECTORS = 4                 # what a tile has at least, of narrow rows: enough sums at once for the latency of a product

# Cycles of the model for an element of the source that goes into its plane (with its row; in blocks of 8 channels; one by
# one), and for one that is stored from the planes of the result.
COPY_CYCLES, BLOCK_CYCLES, SINGLE_CYCLES = 0.05, 0.2, 0.6
STORE_CYCLES = 0.35
RUN_CYCLES = 60             # for a run of rows with terms of its own
SUMS_IN_FLIGHT = 8          # two products start in a cycle, and take four: with fewer sums at once they wait for each other

# Gradients of weights: the planes of a block of filters stay in L1, beside the source that passes by.
DIFF_FILTERS, DIFF_BYTES, GRADIENT_PLANES_BYTES = 8, 24 << 10, 256 << 10
SHARD_MACS, SHARD_PIXELS = 400_000, 2000    # a shard ends with sums of lanes, which should cost little
# Cycles of a term's loads for a vector of places; of a sum that is added to memory; of one whose lanes are added; of an
# element that goes into its plane a vector of pixels at a time, which those of few channels do.
LOADS_CYCLES, SUMS_CYCLES, LANES_CYCLES, SPLIT_CYCLES = 0.9, 2.0, 10.0, 0.15


@dataclass(frozen=True)
class _Blocking:
    """Blocking of one ``conv_pixels`` call."""

    rows: int
    cols: int
    dh_min: int
    dw_min: int
    span_h: int
    source_rows: int
    pitch: int

    @staticmethod
    def choose(b: PlanBuilder, s: TapSum) -> _Blocking:
        (stride_h, stride_w), oh = s.strides, s.dst.shape[1]
        down, across = [t[0] for t in s.taps], [t[1] for t in s.taps]
        span_h, span_w = max(down) - min(down) + 1, max(across) - min(across) + 1
        per_pixel = s.pool**2 * len(s.taps) * s.channels * s.filters
        rows, cols = tile_pixels(s.dst.shape, min(TILE_MACS, max(s.macs // b.tiles_wanted, MIN_TILE_MACS)) // per_pixel,
                                 b.vl)
        rows = max(rows, min(oh, ceil(VECTORS / ceil(cols / b.vl) / s.pool**2)))
        reach = (span_w - 1) // stride_w

        def pitch(cols: int) -> int:
            return s.pool * ceil(cols / b.vl) * b.vl + reach

        def too_large(rows: int, cols: int) -> bool:
            return 4 * ((rows * s.pool - 1) * stride_h + span_h) * stride_w * s.channels * pitch(cols) > PLANES_BYTES

        while rows > 1 and too_large(rows, cols):
            rows = ceil(rows / 2)
        while cols > b.vl and too_large(rows, cols):
            cols = ceil(cols / 2 / b.vl) * b.vl
        return _Blocking(rows, cols, min(down), min(across), span_h, (rows * s.pool - 1) * stride_h + span_h, pitch(cols))


class Pixels:
    """Pixels in the lanes: the sums of the definition, in the order and with the bits of ``Direct``."""

    name = "pixels in lanes"

    def refusal(self, b: PlanBuilder, s: TapSum) -> str:
        """Why it cannot compute this; empty where it can."""
        if not s.taps:
            return "no taps"
        if s.add is not None or s.gate is not None:
            return "a value is added" if s.add is not None else "a gate"
        return ""

    def cost(self, b: PlanBuilder, s: TapSum) -> float:
        """Products of whole vectors of pixels, and the way of source and result through planes.

        Terms that rows at the border leave out count too. They are most in images of one pixel and many filters, whose
        weights come from far: this model does not know that, and would choose the tile for them.
        """
        k = _Blocking.choose(b, s)
        n, oh, ow, oc = s.dst.shape
        vectors = ow // k.cols * ceil(k.cols / b.vl) + ceil(ow % k.cols / b.vl)
        sums = min(s.filters, 8) * k.rows * ceil(k.cols / b.vl)
        products = s.groups * product_cycles(b, n * oh * vectors * b.vl, len(s.taps) * s.channels, s.filters)
        products *= max(1.0, SUMS_IN_FLIGHT / sums)
        source = n * ceil(oh / k.rows) * ceil(ow / k.cols) * k.source_rows * k.pitch * s.strides[1] * s.src.shape[3]
        copied = s.strides[1] == s.src.strides[2] == 1
        split = COPY_CYCLES if copied else BLOCK_CYCLES if s.channels >= 8 else SINGLE_CYCLES
        return products + split * source + STORE_CYCLES * n * oh * ow * oc

    def lower(self, b: PlanBuilder, s: TapSum, why: str) -> None:
        """One step, after the packing of the weights."""
        k, (stride_h, stride_w) = _Blocking.choose(b, s), s.strides
        nv = ceil(s.filters / b.vl)
        runs = _row_runs(b, s)
        packed, bias = pack_weights(b, s, nv, has_sum=len(runs) > 1)
        places = [((dh - k.dh_min) * s.channels * stride_w + c * stride_w + (dw - k.dw_min) % stride_w) * k.pitch
                  + (dw - k.dw_min) // stride_w for dh, dw, _, _ in s.taps for c in range(s.channels)]
        epilogue = s.epilogue_params()
        del epilogue["has_add"]
        params = dict(G=s.groups, IC=s.channels, OC=s.filters, SH=stride_h, SW=stride_w, depth=len(places), width=nv * b.vl,
                      pool=s.pool, rows=k.rows, cols=k.cols, dh_min=k.dh_min, dw_min=k.dw_min, span_h=k.span_h,
                      pitch=k.pitch, runs=len(runs), **epilogue)
        tiles = s.groups * s.dst.shape[0] * ceil(s.dst.shape[1] / k.rows) * ceil(s.dst.shape[2] / k.cols)
        tables = [b.table([places]), b.table(runs)]
        b.step("conv_pixels", [s.src, packed, *tables, *([bias] if bias is not None else [])], [s.dst], params,
               tiles=tiles, scratch_bytes=4 * k.source_rows * s.channels * stride_w * k.pitch, macs=s.macs,
               why=f"{self.name}: {s.filters} filters, {len(places)} terms, {k.rows}x{k.cols} pixels a tile"
               f"{', the largest of 2x2' if s.pool == 2 else ''}"
               f"{f', {_share(runs, s):.0%} of the terms' if len(runs) > 1 else ''}{why}")


# Rows near a border, and the terms that they need


Run = tuple[int, int, int]  # end of the rows, first term, end of the terms


def _row_runs(b: PlanBuilder, s: TapSum) -> list[Run]:
    """The result's rows, pooled ones if there is a pool, as runs that need the same terms: no source row is padding.

    All in one run unless several clearly save work: rows at the borders are cut into runs of as many sums as keep the core
    busy.
    """
    (oh, ow), down, stride = s.dst.shape[1:3], [t[0] for t in s.taps], s.strides[0]
    whole = [(oh, 0, len(down) * s.channels)]
    top = min(oh, ceil(max(0, -min(down)) / (stride * s.pool)))
    bottom = max(top, min(oh, ((s.src.shape[1] - 1 - max(down)) // stride + 1) // s.pool))
    if (top, bottom) == (0, oh) or down != sorted(down):
        return whole
    in_row = s.pool**2 * ceil(ow / b.vl)
    step = ceil(SUMS_IN_FLIGHT / (min(s.filters, 8) * in_row))
    ends = sorted({*range(step, top, step), top, bottom, *range(bottom + step, oh, step), oh} - {0})
    runs = [(end, *_terms(s, begin, end)) for begin, end in zip([0, *ends], ends, strict=False)]
    saved = (1 - _share(runs, s)) * product_cycles(b, oh * in_row * b.vl, whole[0][2], s.filters)
    return runs if saved > RUN_CYCLES * len(runs) else whole


def _terms(s: TapSum, begin: int, end: int) -> Pair:
    """First and end of the terms that result rows ``begin`` to ``end`` need."""
    first, last = begin * s.pool * s.strides[0], (end * s.pool - 1) * s.strides[0]
    needed = [i for i, tap in enumerate(s.taps) if -last <= tap[0] < s.src.shape[1] - first]
    return (needed[0] * s.channels, (needed[-1] + 1) * s.channels) if needed else (0, 0)


def _share(runs: Sequence[Run], s: TapSum) -> float:
    """The share of all terms that the runs compute."""
    begins = [0, *(run[0] for run in runs[:-1])]
    computed = sum((end - begin) * (last - first) for begin, (end, first, last) in zip(begins, runs, strict=True))
    return computed / max(s.dst.shape[1] * len(s.taps) * s.channels, 1)


@dataclass(frozen=True)
class _GradientBlocking:
    """Blocking of one ``conv_pixels_backward_weights`` call."""

    rows: int
    cols: int
    dh_min: int
    dw_min: int
    span_h: int
    row_phases: int
    col_phases: int
    reach: int          # columns of a plane beyond those of a block
    pitch: int
    plane: int
    diff_plane: int

    @staticmethod
    def choose(b: PlanBuilder, s: TapGradient) -> _GradientBlocking:
        (stride_h, stride_w), (_, oh, ow, _) = s.strides, s.diff_dst.shape
        down, across = [t[0] for t in s.taps], [t[1] for t in s.taps]
        span_h, span_w = max(down) - min(down) + 1, max(across) - min(across) + 1
        reach = (span_w - 1) // stride_w
        border = max(0, min(reach, -min(across), ow + max(across) - s.src.shape[2])) if stride_w == 1 else 0

        def cut(rows: int, cols: int) -> _GradientBlocking:
            # where a block has whole rows, each begins with the zeros that the last one ends with
            pitch = cols + reach - (border if cols == ow else 0)
            diff_plane = ceil(rows * pitch / b.vl) * b.vl
            diff_plane += 16 if 4 * diff_plane % 1024 == 0 else 0
            plane = (rows + (span_h - 1) // stride_h) * pitch
            return _GradientBlocking(rows, cols, min(down), min(across), span_h, min(stride_h, span_h),
                                     min(stride_w, span_w), reach, pitch, plane, diff_plane)

        def too_large(k: _GradientBlocking) -> bool:
            block = 4 * min(s.filters, DIFF_FILTERS) * k.diff_plane
            return block > DIFF_BYTES or 4 * (k.planes(b, s) + s.filters * k.diff_plane) > GRADIENT_PLANES_BYTES

        n_rows = n_cols = 1
        while n_rows < oh and too_large(cut(ceil(oh / n_rows), ow)):
            n_rows += 1
        while n_cols < ow and too_large(cut(ceil(oh / n_rows), ceil(ow / n_cols))):
            n_cols *= 2
        return cut(ceil(oh / n_rows), ceil(ow / min(n_cols, ow)))

    def place(self, s: TapGradient, dh: int, dw: int, c: int) -> int:
        """Where a term begins in the planes of the source."""
        (stride_h, stride_w), dh, dw = s.strides, dh - self.dh_min, dw - self.dw_min
        plane = (c * self.row_phases + dh % stride_h) * self.col_phases + dw % stride_w
        return plane * self.plane + dh // stride_h * self.pitch + dw // stride_w

    def planes(self, b: PlanBuilder, s: TapGradient) -> int:
        """Elements of the planes of the source, with those that vectors at the end of the last one read."""
        return ceil((s.channels * self.row_phases * self.col_phases * self.plane + self.reach + b.vl) / 16) * 16

    def blocks(self, s: TapGradient) -> int:
        """Of all images."""
        n, oh, ow, _ = s.diff_dst.shape
        return n * ceil(oh / self.rows) * ceil(ow / self.cols)

    def shards(self, s: TapGradient) -> int:
        """Of equally many blocks, but for the last."""
        blocks = self.blocks(s)
        wanted = max(1, min(ceil(TILES_WANTED / s.groups), s.macs // (SHARD_MACS * s.groups),
                            s.diff_dst.size // (s.diff_dst.shape[3] * SHARD_PIXELS), blocks))
        return ceil(blocks / ceil(blocks / wanted))


def _split_cycles(b: PlanBuilder, channels: int, step: int) -> float:
    """Of an element of a pixel of ``channels`` that goes into its plane; pixels are ``step`` elements apart."""
    if channels == step == 1:
        return COPY_CYCLES
    if channels == step <= 8 <= b.vl:
        return SPLIT_CYCLES
    return BLOCK_CYCLES if channels >= 8 else SINGLE_CYCLES


class PixelsGradient:
    """The gradient of weights, with pixels in the lanes: sums of shards, lanes and blocks, which are short."""

    name = "pixels in lanes"

    def refusal(self, b: PlanBuilder, s: TapGradient) -> str:
        """Why it cannot compute this; empty where it can."""
        return "" if s.taps and s.diff_dst.size else "nothing to add up"

    def cost(self, b: PlanBuilder, s: TapGradient) -> float:
        """Products of whole vectors of places, of filters and terms; and the way of both sources into planes."""
        k = _GradientBlocking.choose(b, s)
        depth, blocks = len(s.taps) * s.channels, k.blocks(s)
        groups_of_filters = ceil(s.filters / DIFF_FILTERS)
        filters = s.filters / groups_of_filters
        step = max(filters / 2, LOADS_CYCLES) / TILE_EFFICIENCY
        products = ceil(k.rows * k.pitch / b.vl) * depth * groups_of_filters * step
        sums = SUMS_CYCLES * depth * s.filters
        planes = _split_cycles(b, s.channels, s.strides[1] * s.src.strides[2]) * k.planes(b, s)
        planes += _split_cycles(b, s.filters, s.diff_dst.strides[2]) * s.filters * k.rows * k.cols
        lanes = LANES_CYCLES * k.shards(s) * depth * s.filters
        return s.groups * (blocks * (products + sums + planes) + lanes)

    def lower(self, b: PlanBuilder, s: TapGradient, why: str) -> None:
        """One step, and the sum of the shards."""
        k, kw = _GradientBlocking.choose(b, s), s.diff_weights.shape[1]
        shards = k.shards(s)
        terms = [(k.place(s, dh, dw, c), (kh * kw + col) * s.channels + c)
                 for dh, dw, kh, col in s.taps for c in range(s.channels)]
        params = dict(G=s.groups, IC=s.channels, OC=s.filters, SH=s.strides[0], SW=s.strides[1], depth=len(terms),
                      rows=k.rows, cols=k.cols, dh_min=k.dh_min, dw_min=k.dw_min, span_h=k.span_h,
                      row_phases=k.row_phases, col_phases=k.col_phases, pitch=k.pitch, plane=k.plane,
                      planes=k.planes(b, s), diff_plane=k.diff_plane, shards=shards)
        scratch = 4 * (k.planes(b, s) + s.filters * (k.diff_plane + len(terms) * b.vl))
        lower_sharded_gradient(
            b, "conv_pixels_backward_weights", s, [b.table([*zip(*terms, strict=True)])], params, shards, s.groups, scratch,
            f"{self.name}: {s.filters} filters, {len(terms)} terms, {shards} shards of the {k.blocks(s)} blocks of "
            f"{k.rows}x{k.cols} pixels{why}")
