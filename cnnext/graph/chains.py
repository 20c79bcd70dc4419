"""Chains: runs of nodes that are computed band by band, so that what lies between them stays in a core's cache.

A band is some rows of one image. All its nodes are computed for it, one after the other, by one worker; the values between
them lie in that worker's scratch. Rows at the edge of a band that the next one needs as well are computed twice. Which rows
of its inputs a layer needs for some of its output's, it says itself (``Layer.band``); each band is then lowered like a small
image with padding of its own, so kernels know nothing of bands. Bands that look alike, all but the first and the last
one as a rule, are lowered once.

See ``docs/design/0007-chains.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil, prod

from cnnext.errors import PluginError
from cnnext.graph.graph import FLOAT32, Graph, Node, Value
from cnnext.graph.memory import (
    BandStorage,
    Overwrites,
    View,
    guard_zones,
    lifetimes,
    padded_view,
    plan_arena,
    plan_guarded_arena,
)
from cnnext.graph.plan import PlanBuilder, Step
from cnnext.layers._algorithms import L2_BYTES, L3_BYTES_PER_CYCLE
from cnnext.layers.layer import Band, Layer
from cnnext.plugins import contained

MOST_NODES = 4              # of a chain: rows that are computed twice add up
SCRATCH_BYTES = 512 << 10   # for the values between two nodes: half of a 1 MB L2, beside source, result and weights
CACHE_BYTES = 768 << 10     # with the weights; where they do not fit, they come from L3 for each band

# Cycles of one core, as measured on Zen 4: a value that does not stay in L2 is written and read again at so many bytes in
# one, from and to L3 or memory; a vector of multiply-adds takes one, and those of a node with few of them for each value it
# reads and writes more; a kernel call takes some hundreds.
L3_BYTES = 16 << 20
L3_ROUND_BYTES, MEMORY_ROUND_BYTES = 32.0, 4.0
OVERHEAD_MACS, CALL_CYCLES = 8, 400
RAGGED_PIXELS = 3           # of the last register tile of each band, that are computed for nothing
LEAST_SHARE = 0.02          # of the nodes' work: what a chain has to save, the model being no better


@dataclass(frozen=True)
class Run:
    """Nodes to be lowered together, as a chain with bands of ``rows`` rows or of ``images`` images, or one node."""

    nodes: list[Node]
    rows: int = 0
    images: int = 0


@dataclass
class Bands:
    """How the step of a chain is computed.

    Attributes
    ----------
    variants : list of lists of Step
        The kernel calls of one band, for each kind of them.
    variant_of : list of int
        The kind of each band of an image.
    outside : list of BandStorage
        Of the values whose rows move on from band to band.
    images : int
    scratch_bytes : int
        Of the values in between; those of kernels lie behind.
    zones : list of lists of (first, last)
        Bytes of the scratch that nobody may write, for each kind: where memory is guarded.
    """

    variants: list[list[Step]]
    variant_of: list[int]
    outside: list[BandStorage]
    images: int
    scratch_bytes: int = 0
    zones: list[list[tuple[int, int]]] = field(default_factory=list)

    @property
    def parts(self) -> list[Step]:
        """The kernel calls of most bands."""
        return self.variants[max(set(self.variant_of), key=self.variant_of.count)]

    def outer_views(self, side: str) -> list[View]:
        """What is read (``"src"``) or written (``"dst"``) beyond the scratch."""
        found: dict[tuple[object, ...], View] = {}
        inside = {v.storage for parts in self.variants for part in parts for v in part.dst}
        for part in (part for parts in self.variants for part in parts):
            for view in getattr(part, side):
                if isinstance(view.storage, BandStorage):
                    found[view.storage,] = view.storage.host
                elif view.storage not in inside:
                    found[view.storage, view.offset, view.shape] = view
        return list(found.values())

    @property
    def overwrites(self) -> Overwrites:
        """For ``Step.overwrites``: values outside that one elementwise kernel of a band reads and no other."""
        found = []
        for part in self.parts:
            others = {v.storage for other in self.parts if other is not part for v in (*other.src, *other.dst)}
            if part.elementwise and isinstance(part.dst[0].storage, BandStorage):
                hosts = [v.storage.host for v in part.src if isinstance(v.storage, BandStorage) and v.storage not in others
                         and v.walks_like(part.dst[0])]
                found.append((hosts, part.dst[0].storage.host))
        return found

    def arrange(self, guard: bool) -> None:
        """Give the values in between their place in the scratch."""
        spans = []
        for parts in self.variants:
            inside = {v.storage for part in parts for v in part.dst}
            spans.append(lifetimes(([v for v in part.src if v.storage in inside], part.dst) for part in parts))
        self.scratch_bytes = max(plan_guarded_arena(s) if guard else plan_arena(s) for s in spans)
        self.zones = [guard_zones(s) if guard else [] for s in spans]
        for storages in spans:
            for storage in storages:
                storage.kind = "scratch"


def choose_runs(b: PlanBuilder, graph: Graph) -> list[Run]:
    """All nodes, in an order in which they can be lowered: those that pay as chains, the others one by one.

    ``CNNEXT_CHAINS=0`` keeps all of them apart.
    """
    if os.environ.get("CNNEXT_CHAINS") == "0":
        return [Run([node]) for node in graph.nodes]
    if graph.training:
        from cnnext.graph.image_chains import choose_image_runs

        return choose_image_runs(b, graph)
    return in_order(graph, [part for run in possible_runs(graph) for part in _split(b, run)])


def possible_runs(graph: Graph) -> list[list[Node]]:
    """The longest runs of nodes in which each alone reads the result of the one before, and all can be computed by bands."""
    after = _followers(graph)
    rest = set(after.values())
    runs = []
    for node in after:
        if node not in rest:
            run = [node]
            while run[-1] in after:
                run.append(after[run[-1]])
            runs.append(run)
    return runs


def in_order(graph: Graph, chains: Sequence[Run]) -> list[Run]:
    """The graph's nodes with those of chains together, where the last of them stands."""
    ends = {run.nodes[-1]: run for run in chains}
    inside = {node for run in chains for node in run.nodes[:-1]}
    return [ends.get(node, Run([node])) for node in graph.nodes if node not in inside]


def _followers(graph: Graph) -> dict[Node, Node]:
    readers, outputs = graph.consumers(), set(graph.outputs)
    live = set(graph.inputs)    # what is not computed once for all runs
    before: dict[Node, Node] = {}   # of two nodes whose results meet in a third, the later one
    for node in graph.nodes:
        if live.isdisjoint(node.inputs):
            continue
        live.update(node.outputs)
        found = readers.get(node.outputs[0], []) if len(node.outputs) == 1 else []
        if len(found) == 1 and node.output not in outputs and _is_link(node, found[0]):
            before[found[0]] = node
    return {node: follower for follower, node in before.items()}


def _is_link(node: Node, follower: Node) -> bool:
    """Whether rows of the follower's result can be computed from rows of the node's."""
    value = node.output
    if len(follower.outputs) != 1 or follower.inputs.count(value) != 1:
        return False
    shapes = value.shape, follower.output.shape
    if not _has_rows(value) or not _has_rows(follower.output) or shapes[0][0] != shapes[1][0]:
        return False
    band = _band(follower, 0, shapes[1][1] or 0)
    return band is not None and band.rows[follower.inputs.index(value)] is not None and (
        _band(node, 0, shapes[0][1] or 0) is not None)


def _has_rows(value: Value) -> bool:
    return len(value.shape) == 4 and all(value.shape) and value.dtype == FLOAT32


def _band(node: Node, first: int, last: int) -> Band | None:
    """What the layer says of some rows, checked."""
    if type(node.layer).lower is Layer.lower:   # in NumPy
        return None
    with contained(node.layer, "band"):
        band = node.layer.band(node, first, last)
        if band is None:
            return None
        fits = len(band.rows) == len(node.inputs) and all(
            rows is None or len(v.shape) == 4 and 0 <= rows[0] < rows[1] <= (v.shape[1] or 0)
            for rows, v in zip(band.rows, node.inputs, strict=True))
        if not fits:
            raise PluginError(f"{node.name}: `band` must give rows of each input, or None. Received rows={band.rows}.")
    return band


# What a band consists of


@dataclass(frozen=True)
class _Part:
    """A node of a chain, for one band."""

    node: Node
    link: int           # which of its inputs is the value before, -1 for the first node
    first: int          # rows of its output
    last: int
    band: Band

    @property
    def likeness(self) -> tuple[object, ...]:
        """Equal for parts that are lowered alike."""
        lengths = [rows[1] - rows[0] if rows is not None else None for rows in self.band.rows]
        return self.last - self.first, *lengths, self.band.attributes


def _parts(nodes: Sequence[Node], first: int, last: int) -> list[_Part] | None:
    """What rows of the last node's output need of all nodes, or None where one cannot compute them."""
    parts: list[_Part] = []
    for i in range(len(nodes) - 1, -1, -1):
        node = nodes[i]
        link = node.inputs.index(nodes[i - 1].output) if i else -1
        band = _band(node, first, last)
        if band is None:
            return None
        parts.insert(0, _Part(node, link, first, last, band))
        if i:
            rows = band.rows[link]
            if rows is None:
                return None
            first, last = rows
    return parts


# Which chains pay


def _split(b: PlanBuilder, run: Sequence[Node]) -> list[Run]:
    """The chains in a run that save most together."""
    work = [_cycles(b, node) for node in run]
    traffic = [0.0 if _is_elementwise(node) else _round_trip(node.output) for node in run]
    best: list[tuple[float, list[Run]]] = [(0.0, [])]
    for end in range(1, len(run) + 1):
        choices = [best[end - 1]]
        for start in range(max(0, end - MOST_NODES), end - 1):
            saved, rows = _saving(b, run[start:end], work[start:end], sum(traffic[start : end - 1]))
            if rows:
                choices.append((best[start][0] + saved, [*best[start][1], Run(list(run[start:end]), rows)]))
        best.append(max(choices, key=lambda choice: choice[0]))
    return best[-1][1]


def _saving(b: PlanBuilder, nodes: Sequence[Node], work: Sequence[float], traffic: float) -> tuple[float, int]:
    """Cycles that a chain saves, and the rows of its bands; 0 rows where it does not pay."""
    best = (LEAST_SHARE * sum(work), 0)
    if traffic > best[0]:
        for rows in _heights(nodes[-1].output.shape[1] or 0):
            extra = _extra(b, nodes, work, rows)
            if extra is None:
                break
            best = max(best, (traffic - extra, rows))
    return best


def _heights(height: int) -> Iterator[int]:
    """Rows of bands that divide a height about evenly: each a quarter more than the one before, at least."""
    least = 1.0
    for bands in range(height, 0, -1):
        rows = ceil(height / bands)
        if rows >= least:
            least = 1.25 * rows
            yield rows


def _extra(b: PlanBuilder, nodes: Sequence[Node], work: Sequence[float], rows: int) -> float | None:
    """Cycles that a chain costs beyond its nodes' own; None where bands of so many rows do not fit in the cache."""
    images, height = nodes[-1].output.shape[:2]
    assert images is not None and height is not None
    first = (height - rows) // 2
    parts = _parts(nodes, first, first + rows)
    if parts is None:
        return None
    sizes = [4 * (part.last - part.first) * prod(n or 1 for n in part.node.output.shape[2:]) for part in parts[:-1]]
    scratch = max([a + c for a, c in pairwise(sizes)], default=sizes[0])
    if scratch > SCRATCH_BYTES:
        return None
    bands = ceil(height / rows)
    again = sum(cycles * max(0.0, (part.last - part.first) * bands / (part.node.output.shape[1] or 1) - 1)
                + cycles * RAGGED_PIXELS / ((part.last - part.first) * (part.node.output.shape[2] or 1))
                for cycles, part in zip(work, parts, strict=True))
    weights = sum(4 * prod(n or 1 for n in v.shape) for node in nodes for v in node.weights.values())
    streamed = weights * bands * images / L3_BYTES_PER_CYCLE if scratch + weights > CACHE_BYTES else 0.0
    idle = sum(work) * max(0.0, 1 / (bands * images) - 1 / b.tiles_wanted)
    return again + streamed + idle + CALL_CYCLES * len(nodes) * bands * images


def _is_elementwise(node: Node) -> bool:
    """Whether the node works in place, or streams so fast that a chain gains nothing (measured: a gate, then 1x1)."""
    return node.layer.window is None and not node.layer.macs(node)


def _round_trip(value: Value) -> float:
    """Cycles in which a value leaves L2 and comes back."""
    size = 4 * prod(n or 1 for n in value.shape)
    leaving = min(1.0, max(0.0, size / L2_BYTES - 1))     # as large as a cache: it stays; twice as large: it does not
    return leaving * size / (L3_ROUND_BYTES if size < L3_BYTES else MEMORY_ROUND_BYTES)


def _cycles(b: PlanBuilder, node: Node) -> float:
    """Cycles of a node whose values are in L2."""
    elements = prod(n or 1 for n in node.output.shape)
    return (node.layer.macs(node) + OVERHEAD_MACS * elements) / b.vl


# Lowering


def lower_chain(b: PlanBuilder, run: Run) -> None:
    """Append the step that computes a chain."""
    images, height = run.nodes[-1].output.shape[:2]
    assert images is not None and height is not None
    bands = []
    for first in range(0, height, run.rows):
        parts = _parts(run.nodes, first, min(first + run.rows, height))
        if parts is None:
            raise PluginError(f"{run.nodes[-1].name}: `band` of a layer in this chain must be None for all rows or none.")
        bands.append(parts)
    outside = _outside(b, bands)
    variants: dict[tuple[object, ...], list[Step]] = {}
    variant_of = []
    for parts in bands:
        likeness = tuple(part.likeness for part in parts)
        if likeness not in variants:
            with b.apart() as steps:
                _lower_band(b, parts, outside)
            variants[likeness] = steps
        variant_of.append(list(variants).index(likeness))
    computed = sum((part.last - part.first) * (part.node.layer.macs(part.node) // (part.node.output.shape[1] or 1))
                   for parts in bands for part in parts)
    macs = sum(node.layer.macs(node) for node in run.nodes)
    again = f", {computed / macs - 1:.0%} computed twice" if computed > macs else ""
    b.chain_step(f"{run.nodes[0].name} .. {run.nodes[-1].name}",
                 Bands(list(variants.values()), variant_of, list(outside.values()), images), macs,
                 f"{len(bands)} bands of {run.rows} rows{again}")


_Place = tuple[int, int | str]      # node of a chain, and which of its inputs, "add" or "output"


def _outside(b: PlanBuilder, bands: Sequence[Sequence[_Part]]) -> dict[_Place, BandStorage]:
    """The values that a chain reads and writes band by band or image by image."""
    outside: dict[_Place, BandStorage] = {}
    for k, part in enumerate(bands[0]):
        for i, value in enumerate(part.node.inputs):
            rows = [parts[k].band.rows[i] for parts in bands]
            whole = rows[0] is None and (len(value.shape) != 4 or value.shape[0] == 1)
            if i != part.link and not whole:
                outside[k, i] = BandStorage.of_rows(b.view(value), [r[0] if r is not None else 0 for r in rows])
        if part.node.epilogue is not None and part.node.epilogue.add is not None:
            outside[k, "add"] = BandStorage.of_rows(b.view(part.node.epilogue.add), [parts[k].first for parts in bands])
    last = len(bands[0]) - 1
    outside[last, "output"] = BandStorage.of_rows(b.view(bands[0][last].node.output), [parts[last].first for parts in bands])
    return outside


def _lower_band(b: PlanBuilder, parts: Sequence[_Part], outside: dict[_Place, BandStorage]) -> None:
    """Append the kernel calls of one band: its nodes, as those of a small image."""
    before: Value | None = None
    for k, part in enumerate(parts):
        def stand_in(place: _Place, value: Value, rows: tuple[int, int] | None) -> Value:
            if place not in outside:
                return value
            view = outside[place].view(1, rows[1] - rows[0] if rows is not None else value.shape[1] or 1)
            return b.let(Value(view.shape, value.dtype, value.name), view)

        node = part.node
        inputs = [before if i == part.link and before is not None else stand_in((k, i), value, part.band.rows[i])
                  for i, value in enumerate(node.inputs)]
        epilogue = node.epilogue
        if epilogue is not None and epilogue.add is not None:
            epilogue = replace(epilogue, add=stand_in((k, "add"), epilogue.add, (part.first, part.last)))
        piece = Node(_with_attributes(node.layer, part.band), inputs, node.weights, node.name, epilogue)
        before = stand_in((k, "output"), node.output, (part.first, part.last))
        if before is node.output:
            shape = (1, part.last - part.first, *(n or 0 for n in node.output.shape[2:]))
            before = b.let(Value(shape, node.output.dtype, node.output.name), padded_view(shape))
        piece.outputs = [before]
        before.node = piece
        b.lower_node(piece)


def _with_attributes(layer: Layer, band: Band) -> Layer:
    if not band.attributes:
        return layer
    layer = copy(layer)
    for name, value in band.attributes:
        setattr(layer, name, value)
    return layer
