"""Choice between the algorithms for a weighted sum of taps: what they have in common, and how they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from cnnext._native.executor import UNARY
from cnnext.graph.graph import Epilogue
from cnnext.graph.memory import View
from cnnext.graph.plan import PlanBuilder

Pair = tuple[int, int]
Tap = tuple[int, int, int, int]  # dh, dw, kh, kw

TILES_WANTED = 16           # so that a worker that is preempted delays the step by at most 1/16

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

    Views of rank 4; weights (KH, KW, IC//G, OC), with ``backward`` (KH, KW, OC, IC).
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
        return self.dst.size * len(self.taps) * self.channels

    def epilogue_params(self) -> dict[str, float]:
        """The fields of kernel parameters that all share."""
        post, constants = self.epilogue.post if self.epilogue.post is not None else (None, ())
        p0, p1 = (*constants, 0.0, 0.0)[:2]
        return dict(has_bias=self.bias is not None, has_add=self.add is not None,
                    post_op=UNARY[post] if post is not None else -1, low=self.epilogue.low, high=self.epilogue.high,
                    post_0=p0, post_1=p1)


class Algorithm(Protocol):
    """One way to compute a ``TapSum``."""

    name: str

    def refusal(self, b: PlanBuilder, s: TapSum) -> str:
        """Why it cannot; empty where it can."""

    def cost(self, b: PlanBuilder, s: TapSum) -> float:
        """Cycles of one core."""

    def lower(self, b: PlanBuilder, s: TapSum, why: str) -> None:
        """Append its steps; ``why`` ends what they say of themselves."""


def lower_cheapest(b: PlanBuilder, s: TapSum, algorithms: Sequence[Algorithm]) -> None:
    """Lower by the algorithm that costs least; by the first, which computes all, unless it costs clearly more.

    With a tuner, costs are measured seconds.
    """
    refusals = {a.name: a.refusal(b, s) for a in algorithms}
    costs = {a.name: a.cost(b, s) for a in algorithms if not refusals[a.name]}
    share, tuned = CLEARLY_LESS, ""
    rivals = [a for a in algorithms if a.name in costs and costs[a.name] <= NOT_WORTH_A_TRIAL * min(costs.values())]
    if b.tuner is not None and len(rivals) > 1:
        from cnnext.layers._trials import trial_times

        costs, share, tuned = trial_times(b, s, rivals), CLEARLY_FASTER, "tuned: "
    chosen = min((a for a in algorithms if a.name in costs), key=lambda a: costs[a.name])
    if algorithms[0].name in costs and costs[chosen.name] > share * costs[algorithms[0].name]:
        chosen = algorithms[0]
    others = [f"{name} {cost / costs[chosen.name]:.2f}x" for name, cost in costs.items() if name != chosen.name]
    for reason in dict.fromkeys(filter(None, refusals.values())):
        others.append(f"not {' or '.join(name for name in refusals if refusals[name] == reason)}: {reason}")
    chosen.lower(b, s, f"; {tuned}{', '.join(others)}" if others else "")


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


def pack_weights(b: PlanBuilder, s: TapSum, nv: int) -> tuple[View, View | None]:
    """Weights as panels of nv vectors of result channels, (G * panels, taps * IC, nv * vl), and the bias likewise."""
    width, panels, k = nv * b.vl, ceil(s.filters / (nv * b.vl)), s.channels
    packed = b.temp((s.groups * panels, max(len(s.taps) * k, 1), width))
    packed_bias = b.temp((s.groups * panels, width)) if s.bias is not None else None
    src = [s.weights, b.table([tap[2:] for tap in s.taps] or [(0, 0)])] + ([s.bias] if s.bias is not None else [])
    dst = [packed] + ([packed_bias] if packed_bias is not None else [])
    params = dict(G=s.groups, K=k, OC=s.filters, n_taps=len(s.taps), nv=nv, panels=panels, backward=s.backward,
                  has_bias=s.bias is not None)
    b.step("conv_pack_weights", src, dst, params, tiles=s.groups * panels, why=f"panels of {width} channels")
    return packed, packed_bias
