"""Convolutions to few filters, with pixels in the lanes: when that applies, what it costs, and how it is cut into work.

The kernel is in ``src/kernels/conv_pixels.pyx``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from cnnext.graph.plan import PlanBuilder
from cnnext.layers._algorithms import (
    MIN_TILE_MACS,
    TILE_MACS,
    Pair,
    TapSum,
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
    """The result's rows (pooled ones if there is a pool) as runs, each with the terms whose source row is no padding.

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
