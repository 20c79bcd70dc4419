"""Winograd's convolutions of 3 x 3 taps, and the gradients of their weights: applicability, cost, and blocking.

The kernels are in ``src/kernels/conv_winograd.pyx``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from cnnext.graph.memory import View
from cnnext.graph.plan import TILES_WANTED, PlanBuilder
from cnnext.layers._algorithms import (
    L2_BYTES,
    L2_WEIGHTS_BYTES,
    TapGradient,
    TapSum,
    lower_sharded_gradient,
    no_window_of_3x3,
    panel_vectors,
    product_cycles,
    streaming_cycles,
)

# Tiles of a group are rows of its products. Weights that stay in L2 leave this much of it to V of a group and M of a panel;
# those that do not are streamed once a group, which has to be worth it: then V streams as well.
GROUP_BYTES = L2_BYTES // 2
FEWEST_TILES, FEWEST_STREAMING, MOST_TILES = 12, 24, 48
# The sums of the gradient of weights, and V and A dY A^T of a group, which share L2.
SUMS_BYTES, GRADIENT_GROUP_BYTES = 320 << 10, 448 << 10
PACK_CHUNK = 32                     # input channels of one piece of work of the transform of weights

# Cycles of the transforms of a vector of channels of one tile, by m. With these the model's ratios to the direct sum are
# those measured, within 20 %, for 7x7 to 256x256 pixels and 8 to 512 channels: benchmarks/winograd.py shows both.
SOURCE_CYCLES = {2: 35.0, 4: 110.0}
RESULT_CYCLES = {2: 25.0, 4: 80.0}
WEIGHT_CYCLES = {2: 120.0, 4: 250.0}
TAP_CYCLES = {2: 30.0, 4: 90.0}     # of the nine taps of a vector of weights
POINT_CYCLES = 2.0                  # a row of a product: its sums are stored, for each vector


@dataclass(frozen=True)
class _Blocking:
    """How a Winograd convolution is cut into work."""

    rows: int           # tiles of an image
    cols: int
    tiles: int          # of all images
    group: int          # tiles of a group
    nv: int
    panels: int
    panel_block: int    # panels of one piece of work
    src_ld: int
    src_step: int       # elements between the points of V
    weights_step: int   # of U
    dst_step: int       # and of M

    @staticmethod
    def choose(b: PlanBuilder, s: TapSum, m: int) -> _Blocking:
        n, oh, ow, _ = s.dst.shape
        rows, cols = ceil(oh / m), ceil(ow / m)
        tiles, points = n * rows * cols, (m + 2) ** 2
        nv = panel_vectors(b, s.filters)
        src_ld = ceil(s.channels / b.vl) * b.vl
        src_ld += 16 if src_ld % 256 == 0 else 0
        if 4 * points * s.channels * s.filters > L2_WEIGHTS_BYTES:
            fewest, most = FEWEST_STREAMING, MOST_TILES
        else:
            fewest, most = FEWEST_TILES, min(MOST_TILES, GROUP_BYTES // (4 * points * (src_ld + nv * b.vl)))
        group = ceil(tiles / max(ceil(tiles / max(fewest, most)), min(TILES_WANTED, tiles // fewest), 1))
        groups = ceil(tiles / group)
        split = groups < TILES_WANTED // 2 and s.filters > nv * b.vl
        while split and nv > 2 and groups * ceil(s.filters / (nv * b.vl)) < TILES_WANTED // 2:
            nv //= 2
        panels = ceil(s.filters / (nv * b.vl))
        return _Blocking(rows, cols, tiles, group, nv, panels, 1 if split else panels, src_ld,
                         _odd_lines(group * src_ld), _odd_lines(s.channels * nv * b.vl), _odd_lines(group * nv * b.vl))

    @property
    def groups(self) -> int:
        return ceil(self.tiles / self.group)

    @property
    def split(self) -> bool:
        """Pieces of work are single panels, which share the transformed source."""
        return self.panel_block < self.panels


def _odd_lines(elements: int) -> int:
    """The next odd multiple of a cache line of 16 floats."""
    return (ceil(elements / 16) | 1) * 16


class Winograd:
    """F(m x m, 3 x 3): m = 2 is as accurate as the direct sum, m = 4 has about three times its error."""

    def __init__(self, m: int):
        self.m = m
        self.name = f"winograd F({m}x{m},3x3)"

    def refusal(self, b: PlanBuilder, s: TapSum) -> str:
        """Why it cannot compute this; empty where it can."""
        return "exact=True" if b.exact else no_window_of_3x3(s.taps, s.strides, s.groups)

    def cost(self, b: PlanBuilder, s: TapSum) -> float:
        """Products against the weights that stream in meanwhile, and the transforms."""
        m, k = self.m, _Blocking.choose(b, s, self.m)
        points, depth = (m + 2) ** 2, s.channels
        vectors = k.panels * k.nv
        products = product_cycles(b, points * k.tiles, depth, vectors * b.vl) + POINT_CYCLES * points * k.tiles * vectors
        streaming = streaming_cycles(4 * points * depth * vectors * b.vl, k.groups)
        transforms = k.tiles * (ceil(depth / b.vl) * SOURCE_CYCLES[m] + vectors * RESULT_CYCLES[m])
        if not b.is_fixed(s.weights):
            transforms += depth * vectors * WEIGHT_CYCLES[m]
        return max(products, streaming) + transforms

    def lower(self, b: PlanBuilder, s: TapSum, why: str) -> None:
        """Weights to U, then one step, or two where pieces of work share V."""
        m, k = self.m, _Blocking.choose(b, s, self.m)
        points, width = (m + 2) ** 2, k.nv * b.vl
        packed, bias = self._transform_weights(b, s, k)
        source = dict(m=m, IC=s.channels, dh=s.taps[0][0], dw=s.taps[0][1], rows=k.rows, cols=k.cols, tiles=k.tiles,
                      group=k.group, src_ld=k.src_ld, src_step=k.src_step)
        src, scratch = s.src, 4 * points * k.dst_step
        if k.split:
            src = b.temp((k.groups, points * k.src_step))
            chunk = ceil(k.tiles / TILES_WANTED)
            b.step("conv_winograd_src", [s.src], [src], dict(source, chunk=chunk), tiles=ceil(k.tiles / chunk),
                   scratch_bytes=4 * k.src_ld, why=f"{k.tiles} tiles of {m + 2}x{m + 2} pixels")
        else:
            scratch += 4 * (points * k.src_step + k.src_ld)
        params = dict(source, transformed=k.split, OC=s.filters, nv=k.nv, panels=k.panels, panel_block=k.panel_block,
                      weights_step=k.weights_step, dst_step=k.dst_step, **s.epilogue_params())
        sources = [src, packed, *([bias] if bias is not None else []), *([s.add] if s.add is not None else [])]
        b.step("conv_winograd", sources, [s.dst], params, tiles=k.groups * ceil(k.panels / k.panel_block),
               scratch_bytes=scratch, macs=s.macs,
               why=f"{self.name}: {k.tiles} tiles in {k.groups} groups, {k.panels} panels of {width} channels"
                   f"{', each apart' if k.split else ''}{why}")

    def _transform_weights(self, b: PlanBuilder, s: TapSum, k: _Blocking) -> tuple[View, View | None]:
        width = k.nv * b.vl
        packed = b.temp((k.panels, (self.m + 2) ** 2 * k.weights_step))
        bias = b.temp((k.panels, width)) if s.bias is not None else None
        src = [s.weights, b.table([tap[2:] for tap in s.taps])] + ([s.bias] if s.bias is not None else [])
        params = dict(m=self.m, IC=s.channels, OC=s.filters, nv=k.nv, weights_step=k.weights_step, chunk=PACK_CHUNK,
                      backward=s.backward, has_bias=bias is not None)
        b.step("conv_winograd_weights", src, [packed, *([bias] if bias is not None else [])], params,
               tiles=k.panels * ceil(s.channels / PACK_CHUNK), scratch_bytes=4 * 9 * PACK_CHUNK * width,
               why=f"{(self.m + 2) ** 2} points")
        return packed, bias


@dataclass(frozen=True)
class _GradientBlocking:
    """How the gradient of the weights is cut into work: (blocks of input channels) x (panels) x (shards of the groups)."""

    rows: int           # tiles of an image
    cols: int
    tiles: int          # of all images
    group: int          # tiles of a group
    nv: int
    panels: int
    channel_block: int
    blocks: int
    shards: int
    src_ld: int

    @staticmethod
    def choose(b: PlanBuilder, s: TapGradient, m: int) -> _GradientBlocking:
        n, oh, ow, _ = s.diff_dst.shape
        rows, cols = ceil(oh / m), ceil(ow / m)
        tiles, point_bytes = n * rows * cols, 4 * (m + 2) ** 2
        nv = min(panel_vectors(b, s.filters), 2)
        panels = ceil(s.filters / (nv * b.vl))
        most = max(1, SUMS_BYTES // (point_bytes * nv * b.vl * b.vl)) * b.vl
        blocks = ceil(s.channels / most)
        channel_block = ceil(s.channels / blocks / b.vl) * b.vl
        src_ld = channel_block + (16 if channel_block % 256 == 0 else 0)
        most_tiles = max(FEWEST_TILES, min(MOST_TILES, GRADIENT_GROUP_BYTES // (point_bytes * (src_ld + nv * b.vl))))
        group = ceil(tiles / ceil(tiles / most_tiles))
        shards = min(ceil(tiles / group), ceil(TILES_WANTED / (panels * blocks)))
        return _GradientBlocking(rows, cols, tiles, group, nv, panels, channel_block, ceil(s.channels / channel_block),
                                 shards, src_ld)


class WinogradGradient:
    """The gradient of the weights of F(m x m, 3 x 3): sums over tiles instead of pixels, with as many fewer products."""

    def __init__(self, m: int):
        self.m = m
        self.name = f"winograd F({m}x{m},3x3)"

    def refusal(self, b: PlanBuilder, s: TapGradient) -> str:
        """Why it cannot compute this; empty where it can."""
        if not b.exact and [t[2:] for t in s.taps] != [(i, j) for i in range(3) for j in range(3)]:
            return "no window of 3x3 neighbours"
        return "exact=True" if b.exact else no_window_of_3x3(s.taps, s.strides, s.groups)

    def cost(self, b: PlanBuilder, s: TapGradient) -> float:
        """Products, and the transforms: of the source for each panel, of diff_dst for each block of channels."""
        m, k = self.m, _GradientBlocking.choose(b, s, self.m)
        points, vectors = (m + 2) ** 2, k.panels * k.nv
        depth = k.blocks * k.channel_block
        products = product_cycles(b, points * k.tiles, depth, vectors * b.vl)
        sums = POINT_CYCLES * points * depth * vectors * ceil(k.tiles / k.group)
        transforms = k.tiles * (depth / b.vl * k.panels * SOURCE_CYCLES[m] + vectors * k.blocks * RESULT_CYCLES[m])
        return products + sums + transforms + k.shards * depth * vectors * TAP_CYCLES[m]

    def lower(self, b: PlanBuilder, s: TapGradient, why: str) -> None:
        """One step, and the sum of the shards."""
        m, k = self.m, _GradientBlocking.choose(b, s, self.m)
        points, width = (m + 2) ** 2, k.nv * b.vl
        src_step, diff_step = _odd_lines(k.group * k.src_ld), _odd_lines(k.group * width)
        weights_step = _odd_lines(k.channel_block * width)
        params = dict(m=m, IC=s.channels, dh=s.taps[0][0], dw=s.taps[0][1], rows=k.rows, cols=k.cols, tiles=k.tiles,
                      group=k.group, src_ld=k.src_ld, src_step=src_step, OC=s.filters, nv=k.nv, panels=k.panels,
                      channel_block=k.channel_block, shards=k.shards, diff_step=diff_step, weights_step=weights_step)
        scratch = 4 * (points * (weights_step + src_step + diff_step) + max(k.src_ld, width))
        lower_sharded_gradient(
            b, "conv_winograd_backward_weights", s, [], params, k.shards, k.panels * k.blocks, scratch,
            f"{self.name}: {k.tiles} tiles in {ceil(k.tiles / k.group)} groups, {k.shards} shards, {k.panels} panels of "
            f"{width} channels{why}")
