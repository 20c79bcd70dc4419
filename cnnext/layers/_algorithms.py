"""Choice between the algorithms for a weighted sum of taps: what they have in common, and how they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol, TypeVar

from cnnext.graph.graph import Epilogue
from cnnext.graph.kernels import epilogue_params
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder

Pair = tuple[int, int]
Tap = tuple[int, int, int, int]  # dh, dw, kh, kw

TILE_MACS = 1_000_000       # what a tile should do, so that taking it (some 20 ns) and its ragged edges cost nothing
MIN_TILE_MACS = 50_000

# Costs are cycles of one core, which starts two vectors of multiply-adds in each. A register tile reaches this share of it.
TILE_EFFICIENCY = 0.9
# Weights that do not stay in L2, beside all else, come from L3, at so many bytes a cycle and core, while products go on.
L2_BYTES, L2_WEIGHTS_BYTES, L3_BYTES_PER_CYCLE = 1 << 20, 640 << 10, 10.0

# The first algorithm of a list is the most accurate. Another has to cost less than this share of it; measured times may be
# nearer. What the model finds so many times as dear as the cheapest is not measured.
CLEARLY_LESS, CLEARLY_FASTER, NOT_WORTH_A_TRIAL = 0.87, 0.97, 4.0


@dataclass(frozen=True)
class TapSum:
    """``dst[oh, ow] = epilogue(bias + sum over taps of src[oh * SH + dh, ow * SW + dw] * weights[kh, kw])``.

    Views of rank 4; weights (KH, KW, IC//G, OC), with ``backward`` (KH, KW, OC, IC). With a ``gate`` (N, 1, 1, IC) each
    image's source channels are multiplied by it; there is one group and one tap then. With ``pool`` = 2, ``dst`` is the
    largest of each 2 x 2 pixels of that.
    """

    src: View
    weights: View
    bias: View | None
    dst: View
    taps: Sequence[Tap]
    strides: Pair
    groups: int
    backward: bool
    epilogue: Epilogue
    add: View | None
    gate: View | None = None
    pool: int = 1

    @property
    def channels(self) -> int:
        """Source channels of a group."""
        return self.src.shape[3] // self.groups

    @property
    def filters(self) -> int:
        """Result channels of a group."""
        return self.dst.shape[3] // self.groups

    @property
    def macs(self) -> int:
        """Products that the definition has."""
        return self.dst.size * self.pool**2 * len(self.taps) * self.channels

    def epilogue_params(self) -> dict[str, float]:
        """The fields of kernel parameters that all share."""
        return {**epilogue_params(self.epilogue), "has_bias": self.bias is not None, "has_add": self.add is not None}


@dataclass(frozen=True)
class TapGradient:
    """The gradient of a ``TapSum`` with respect to its weights, overwriting:

    ``diff_weights[kh, kw] = sum over pixels of src[oh * SH + dh, ow * SW + dw] x diff_dst[oh, ow]``.

    Views of rank 4; diff_weights (KH, KW, IC//G, OC), dense.
    """

    src: View
    diff_dst: View
    diff_weights: View
    taps: Sequence[Tap]
    strides: Pair
    groups: int

    @property
    def channels(self) -> int:
        """Source channels of a group."""
        return self.src.shape[3] // self.groups

    @property
    def filters(self) -> int:
        """Result channels of a group."""
        return self.diff_dst.shape[3] // self.groups

    @property
    def macs(self) -> int:
        """Products that the definition has."""
        return self.diff_dst.size * len(self.taps) * self.channels


Sum = TypeVar("Sum", TapSum, TapGradient, contravariant=True)


class Algorithm(Protocol[Sum]):
    """One way to compute a ``TapSum``, or a ``TapGradient``."""

    name: str

    def refusal(self, b: PlanBuilder, s: Sum) -> str:
        """Why it cannot; empty where it can."""

    def cost(self, b: PlanBuilder, s: Sum) -> float:
        """Cycles of one core."""

    def lower(self, b: PlanBuilder, s: Sum, why: str) -> None:
        """Append its steps; ``why`` ends what they say of themselves."""


def no_window_of_3x3(taps: Sequence[Tap], strides: Pair, groups: int) -> str:
    """Why taps are not 3 x 3 neighbours at stride 1, in one group; empty where they are."""
    if strides != (1, 1):
        return "strides"
    if groups != 1:
        return "groups"
    first = taps[0][:2] if taps else (0, 0)
    if [t[:2] for t in taps] != [(first[0] + i, first[1] + j) for i in range(3) for j in range(3)]:
        return "no window of 3x3 neighbours"
    return ""


def cheapest(b: PlanBuilder, s: Sum, algorithms: Sequence[Algorithm[Sum]]) -> tuple[Algorithm[Sum], str]:
    """The algorithm that costs least, or the first, which computes all, unless that costs clearly more; why no other.

    With a tuner, costs of sums of taps are measured seconds.
    """
    refusals = {a.name: a.refusal(b, s) for a in algorithms}
    costs = {a.name: a.cost(b, s) for a in algorithms if not refusals[a.name]}
    share, tuned = CLEARLY_LESS, ""
    rivals = [a for a in algorithms if a.name in costs and costs[a.name] <= NOT_WORTH_A_TRIAL * min(costs.values())]
    if b.tuner is not None and len(rivals) > 1 and isinstance(s, TapSum):
        from cnnext.layers._trials import trial_times

        costs, share, tuned = trial_times(b, s, rivals), CLEARLY_FASTER, "tuned: "
    chosen = min((a for a in algorithms if a.name in costs), key=lambda a: costs[a.name])
    if algorithms[0].name in costs and costs[chosen.name] > share * costs[algorithms[0].name]:
        chosen = algorithms[0]
    others = [f"{name} {cost / costs[chosen.name]:.2f}x" for name, cost in costs.items() if name != chosen.name]
    for reason in dict.fromkeys(filter(None, refusals.values())):
        others.append(f"not {' or '.join(name for name in refusals if refusals[name] == reason)}: {reason}")
    return chosen, f"; {tuned}{', '.join(others)}" if others else ""


def lower_cheapest(b: PlanBuilder, s: Sum, algorithms: Sequence[Algorithm[Sum]]) -> None:
    """Lower by the cheapest algorithm."""
    chosen, why = cheapest(b, s, algorithms)
    chosen.lower(b, s, why)


def product_cycles(b: PlanBuilder, rows: int, depth: int, width: int) -> float:
    """Cycles for rows x depth x width products in register tiles; ``width`` counts whole vectors."""
    return rows * depth * width / (2 * b.vl * TILE_EFFICIENCY)


def streaming_cycles(n_bytes: int, times: int) -> float:
    """Cycles in which weights come in so often; none where they stay in L2."""
    return n_bytes * times / L3_BYTES_PER_CYCLE if n_bytes > L2_WEIGHTS_BYTES else 0.0


def panel_vectors(b: PlanBuilder, channels: int) -> int:
    """Vectors of a panel: the widest that wastes least of the last panel; one-vector panels read more of the source."""
    vectors = ceil(channels / b.vl)

    def cost(nv: int) -> tuple[float, int]:
        return ceil(vectors / nv) * nv * (1.1 if nv == 1 else 1.0), -nv

    return min(range(1, b.max_nv + 1), key=cost)


def pack_weights(b: PlanBuilder, s: TapSum, nv: int, has_sum: bool = False) -> tuple[View, View | None]:
    """Weights as panels of nv vectors of result channels, (G * panels, taps * IC, nv * vl), and the bias likewise.

    With ``has_sum`` a panel has one row more, the sum of the others: where it is finite, all of them are.
    """
    width, panels, k = nv * b.vl, ceil(s.filters / (nv * b.vl)), s.channels
    packed = b.temp((s.groups * panels, max(len(s.taps) * k, 1) + has_sum, width))
    packed_bias = b.temp((s.groups * panels, width)) if s.bias is not None else None
    src = [s.weights, b.table([tap[2:] for tap in s.taps] or [(0, 0)])] + ([s.bias] if s.bias is not None else [])
    dst = [packed] + ([packed_bias] if packed_bias is not None else [])
    params = dict(G=s.groups, K=k, OC=s.filters, n_taps=len(s.taps), nv=nv, panels=panels, backward=s.backward,
                  has_bias=s.bias is not None, has_sum=has_sum)
    b.step("conv_pack_weights", src, dst, params, tiles=s.groups * panels, why=f"panels of {width} channels")
    return packed, packed_bias


def lower_sharded_gradient(b: PlanBuilder, kernel: str, s: TapGradient, tables: Sequence[View], params: dict[str, Any],
                           shards: int, pieces: int, scratch_bytes: int, why: str) -> None:
    """A step that makes partial sums (shards, taps * IC, OC) in ``shards * pieces`` tiles, and their sum."""
    partial = b.temp((shards, len(s.taps) * s.channels, s.diff_dst.shape[3]))
    target = partial if shards > 1 else s.diff_weights.reshaped(partial.shape)
    assert target is not None, "gradients of weights are dense"
    b.step(kernel, [s.src, s.diff_dst, *tables], [target], params, tiles=shards * pieces, scratch_bytes=scratch_bytes,
           macs=s.macs, why=why)
    if shards > 1:
        lower_sum_shards(b, partial, s.diff_weights)


def lower_sum_shards(b: PlanBuilder, partial: View, dst: View) -> None:
    """dst = sum over the first axis of ``partial``, in order of the shards; both dense."""
    shards, count = partial.shape[0], dst.size
    flat = partial.reshaped((shards, count))
    assert flat is not None and dst.is_dense, "shards are dense"
    chunk = 16384
    b.step("sum_shards", [flat], [dst], dict(count=count, shards=shards, chunk=chunk), tiles=ceil(count / chunk),
           why=f"{shards} shards in fixed order")


def tile_pixels(shape: Sequence[int], wanted: int, tile_rows: int) -> Pair:
    """Rows and columns of a tile of about ``wanted`` pixels; a strip of one row is cut at full register tiles."""
    _, oh, ow, _ = shape
    if oh == 1:
        return 1, min(ow, max(tile_rows, wanted // tile_rows * tile_rows))
    return max(1, min(oh, wanted // max(ow, 1))), ow
