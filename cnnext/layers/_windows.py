"""Lowering of windows that treat each channel alone: pools and depthwise convolutions (``src/kernels/window.pxi``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from cnnext.geometry import PaddingPairs, window_extent
from cnnext.graph.graph import Shape
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder
from cnnext.layers._taps import TILES_WANTED, Pair, Tap, Window2D
from cnnext.layers.layer import Window

MIN_TILE_TAPS = 32768   # taps times channels of a tile: 1 to 5 us of work
TILE_TAPS = 1_000_000
MIN_CHANNELS = 16       # of a tile: a cache line
SHARING_ROWS = 7        # of a tile: a window of 3 rows then reads 9


@dataclass(frozen=True)
class SlidingWindow:
    """One call of a kernel that slides a window: the parameters all of them begin with, its table and its tiles."""

    params: dict[str, Any]
    table: View
    tiles: int

    @staticmethod
    def of(b: PlanBuilder, src: View, dst: View, taps: Sequence[Tap], strides: Pair, columns: int,
           tile: Pair | None = None) -> SlidingWindow:
        """``columns``: KW of the weights, to number the taps; ``tile``: its rows and channels, if not the usual ones."""
        n, oh, ow, c = dst.shape
        first, last = _interior(src.shape[2], ow, [t[1] for t in taps], strides[1])
        rows, channels = tile or _tile(dst.shape, len(taps))
        params = dict(n_taps=len(taps), SH=strides[0], SW=strides[1], first=first, last=last, rows=rows,
                      channels=channels)
        table = b.table([(dh, dw, kh * columns + kw) for dh, dw, kh, kw in taps] or [(0, 0, 0)])
        return SlidingWindow(params, table, n * ceil(oh / rows) * ceil(c / channels))

    @property
    def why(self) -> str:
        """One line for ``plan.explain()``."""
        p = self.params
        return f"{p['n_taps']} taps, {p['rows']} rows of {p['channels']} channels a tile"


def _interior(size: int, out: int, columns: Sequence[int], stride: int) -> Pair:
    """Output columns [first, last) of which all taps lie in a source of ``size`` columns."""
    first = min(out, max(0, -(min(columns, default=0) // stride)))
    last = (size - 1 - max(columns, default=0)) // stride + 1
    return first, max(first, min(out, last))


def _tile(shape: Sequence[int], n_taps: int) -> Pair:
    """Rows and channels of a tile: whole rows, unless a few rows are all the work there is."""
    n, oh, ow, c = shape
    row = ow * c * max(n_taps, 1)
    wanted = min(TILE_TAPS, max(MIN_TILE_TAPS, n * oh * row // TILES_WANTED))
    if row <= wanted or n * oh >= TILES_WANTED:
        return max(1, min(oh, wanted // max(row, 1))), max(c, 1)
    blocks = ceil(c / max(MIN_CHANNELS, c * wanted // row // MIN_CHANNELS * MIN_CHANNELS))
    return 1, min(c, ceil(c / blocks / MIN_CHANNELS) * MIN_CHANNELS)


def block_tile(shape: Sequence[int], n_taps: int, block: int) -> Pair:
    """Rows and channels of a tile that is walked by blocks of channels: several rows, which share source rows, before all
    channels of a row."""
    n, oh, ow, c = shape
    row = ow * c * n_taps
    wanted = min(TILE_TAPS, max(MIN_TILE_TAPS, n * oh * row // TILES_WANTED))
    rows = wanted // max(row, 1)
    if rows >= min(oh, SHARING_ROWS):
        return min(oh, rows), c
    channels = min(c, block * max(1, round(wanted / max(oh * ow * n_taps * block, 1))))
    return max(1, min(oh, max(SHARING_ROWS, wanted // max(ow * channels * n_taps, 1)))), channels


def image_blocks(shape: Sequence[int], n_taps: int) -> Pair:
    """All rows, and as few channels as give each worker something to do."""
    n, oh, ow, c = shape
    work = n * oh * ow * c * n_taps
    blocks = max(1, min(ceil(TILES_WANTED / max(n, 1)), work // MIN_TILE_TAPS, ceil(c / MIN_CHANNELS)))
    return max(oh, 1), max(1, ceil(c / blocks / MIN_CHANNELS)) * MIN_CHANNELS


def onnx_window(window: Window2D, src: Shape | None = None, padding: str | PaddingPairs = "valid") -> dict[str, Any]:
    """The window as attributes of ONNX's convolutions and pools, for a source of one or two dimensions.

    "same" depends on the source's size where the window moves by more than a pixel: if ``src`` leaves that open, the runtime
    resolves it, by the same rule.
    """
    first = 0 if src is None else 4 - len(src)
    strides, pads = window.strides[first:], window.padding[first:]
    found: dict[str, Any] = dict(kernel_shape=window.kernel[first:], strides=strides)
    if window.dilation != (1, 1):   # not an attribute of all of them in all versions
        found["dilations"] = window.dilation[first:]
    if padding == "same" and src is not None and None in src[1:-1] and max(strides) > 1:
        return dict(found, auto_pad="SAME_UPPER")
    return dict(found, pads=[pad[0] for pad in pads] + [pad[1] for pad in pads])


def receptive_window(window: Pair, strides: Pair, dilation: Pair, padding: str | PaddingPairs) -> Window:
    """What a layer with these attributes says of its receptive field; "same" pads as for stride 1."""
    pads = (0, 0)
    if padding == "same":
        extents = [window_extent(k, d) for k, d in zip(window, dilation, strict=True)]
        pads = ((extents[0] - 1) // 2, (extents[1] - 1) // 2)
    elif not isinstance(padding, str):
        pads = (padding[0][0], padding[1][0])
    return Window(window, strides, dilation, pads)


def phases(window: Window2D, diff_src: View) -> list[tuple[int, int]]:
    """The residues modulo the strides that pixels of ``diff_src`` have: each is lowered by itself, at stride 1."""
    rows, cols = (min(s, n) for s, n in zip(window.strides, diff_src.shape[1:3], strict=True))
    return [(row, col) for row in range(rows) for col in range(cols)]


def phase_view(view: View, phase: Pair, strides: Pair) -> View:
    """Every SH-th row and every SW-th column, from those of ``phase`` on."""
    return view.sliced(1, phase[0], view.shape[1], strides[0]).sliced(2, phase[1], view.shape[2], strides[1])
