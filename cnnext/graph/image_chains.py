"""Chains of a training step: nodes that are computed for some images at a time, so that what one writes is still in the
cache when the next reads it.

Most values of a training step are read again by the backward pass, so those between the nodes of a chain stay where they
lie, in the arena; what is saved is the way from memory. A band is some whole images, so no row is computed twice. Which of
its inputs a layer reads image by image, it says itself (``Layer.images``); sums over images (statistics, gradients of
scales) join in by giving each band a row of its own in a table, which a later node adds up in order.

See ``docs/design/0007-chains.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import ceil, lcm, prod

from cnnext.errors import PluginError
from cnnext.graph.chains import CALL_CYCLES, L3_BYTES, Bands, Run
from cnnext.graph.graph import FLOAT32, Graph, Node, Value
from cnnext.graph.memory import BandStorage, View
from cnnext.graph.passes.early_effects import with_effects
from cnnext.graph.plan import PlanBuilder, Step
from cnnext.layers._algorithms import L2_BYTES, L3_BYTES_PER_CYCLE
from cnnext.layers.layer import Images, Layer
from cnnext.plugins import contained

BAND_BYTES = 640 << 10      # of all values of a chain, for the images of a band: beside weights, in a 1 MB L2
MOST_NODES = 8              # of a chain
MOST_BAND_BYTES = 4 << 20   # of one image: beyond, it would not find its values in a core's share of L3 either

# Bytes in a cycle that a value comes at from memory and from L3, less what a band's come at from L2; as measured on Zen 4.
MEMORY_RATE, L3_RATE = 8.0, 64.0


def choose_image_runs(b: PlanBuilder, graph: Graph) -> list[Run]:
    """All nodes of a training step, in an order in which they can be lowered: those that pay as chains."""
    runs = [part for chain in possible_chains(graph) for part in _split(b, chain)]
    return in_order(graph, runs)


# Which nodes can form a chain


@dataclass(eq=False)
class _Chain:
    nodes: list[Node] = field(default_factory=list)
    before: set[_Chain] = field(default_factory=set)    # chains whose values this one reads

    def needs(self, other: _Chain) -> bool:
        """Whether this can only be computed after the other."""
        left, seen = [self], {self}
        while left:
            chain = left.pop()
            if chain is other:
                return True
            new = chain.before - seen
            seen |= new
            left += new
        return False


@dataclass(frozen=True)
class _Cut:
    """A node whose images can be computed apart.

    Attributes
    ----------
    images : Images
    batch : int
    read : list of Value
        What is cut by images like the output, also what the epilogue adds.
    """

    images: Images
    batch: int
    read: list[Value]

    @staticmethod
    def of(node: Node) -> _Cut | None:
        images = images_of(node)
        if images is None:
            return None
        read = [v for v, is_cut in zip(node.inputs, images.inputs, strict=True) if is_cut]
        add = [node.epilogue.add] if node.epilogue is not None and node.epilogue.add is not None else []
        return _Cut(images, read[0].shape[0] or 0, [*read, *add])


def possible_chains(graph: Graph) -> list[list[Node]]:
    """The graph's nodes but effects: each joins the chain whose last result it reads by images, if it needs no other way."""
    effects = set(graph.effects)
    chain_of: dict[Node, _Chain] = {}
    cuts: dict[Node, _Cut | None] = {}
    for node in graph.nodes:
        if node in effects:
            continue
        cuts[node] = _Cut.of(node)
        makers = {chain_of[v.node] for v in node.reads if v.node is not None and v.node in chain_of}
        chain = next((c for c in _candidates(node, chain_of, cuts) if not any(m.needs(c) for m in makers - {c})), _Chain())
        chain.nodes.append(node)
        chain.before |= makers - {chain}
        chain_of[node] = chain
    return [chain.nodes for chain in dict.fromkeys(chain_of.values())]


def _candidates(node: Node, chain_of: dict[Node, _Chain], cuts: dict[Node, _Cut | None]) -> Iterator[_Chain]:
    cut = cuts[node]
    if cut is None:
        return
    for value, is_cut in zip(node.inputs, cut.images.inputs, strict=True):
        maker = value.node
        if not is_cut or maker is None or maker not in chain_of or chain_of[maker].nodes[-1] is not maker:
            continue
        before = cuts[maker]
        fits = before is not None and before.images.unit == 1 and before.batch == value.shape[0] == cut.batch
        # what is computed again for the backward pass has to wait until that wants it
        if fits and maker.is_repeated == node.is_repeated:
            yield chain_of[maker]


def images_of(node: Node) -> Images | None:
    """What the layer says of its images, checked."""
    if len(node.outputs) != 1 or node.layer.views_input or type(node.layer).lower is Layer.lower:   # in NumPy
        return None
    with contained(node.layer, "images"):
        images = node.layer.images(node)
        if images is None:
            return None
        cut = [v for v, is_cut in zip(node.inputs, images.inputs, strict=False) if is_cut]
        if not cut or not all(len(v.shape) == 4 and v.dtype == FLOAT32 for v in cut):
            return None
        batch = cut[0].shape[0] or 0
        fits = len(images.inputs) == len(node.inputs) and images.unit >= 1 and all(v.shape[0] == batch for v in cut)
        if not fits or node.output.shape[:1] != (ceil(batch / images.unit),):
            raise PluginError(f"{node.name}: `images` must say of each input whether it is cut by images. "
                              f"Received images={images}.")
    return images


def in_order(graph: Graph, runs: Sequence[Run]) -> list[Run]:
    """The runs in an order in which they can be computed, as close to the graph's as there is; effects in between."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    run_of = {node: i for i, run in enumerate(runs) for node in run.nodes}
    makers = [{run_of[v.node] for node in run.nodes for v in node.reads if v.node is not None} - {i}
              for i, run in enumerate(runs)]
    readers: list[list[int]] = [[] for _ in runs]
    for i, found in enumerate(makers):
        for maker in found:
            readers[maker].append(i)
    missing = [len(found) for found in makers]
    ready = [(place[runs[i].nodes[-1]], i) for i, n in enumerate(missing) if not n]
    heapify(ready)
    ordered: list[Run] = []
    while ready:
        _, i = heappop(ready)
        ordered.append(runs[i])
        for reader in readers[i]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, (place[runs[reader].nodes[-1]], reader))
    assert len(ordered) == len(runs), "chains do not wait for each other"
    known = {run.nodes[0]: run for run in runs}
    return [known.get(group[0]) or Run(list(group)) for group in with_effects([run.nodes for run in ordered], graph.effects)]


# Which chains pay


def _split(b: PlanBuilder, nodes: Sequence[Node]) -> list[Run]:
    """The chains in a row of nodes that save most together."""
    cuts = _cuts(nodes) if len(nodes) > 1 else {}
    best: list[tuple[float, list[Run]]] = [(0.0, [])]
    for end in range(1, len(nodes) + 1):
        choices = [(best[end - 1][0], [*best[end - 1][1], Run([nodes[end - 1]])])]
        for start in range(max(0, end - MOST_NODES), end - 1):
            saved, images = _saving(b, nodes[start:end], cuts)
            if images:
                choices.append((best[start][0] + saved, [*best[start][1], Run(list(nodes[start:end]), images=images)]))
        best.append(max(choices, key=lambda choice: choice[0]))
    return best[-1][1]


def _cuts(nodes: Sequence[Node]) -> dict[Node, _Cut]:
    """Of a chain's nodes."""
    return {node: cut for node in nodes if (cut := _Cut.of(node)) is not None}


def _saving(b: PlanBuilder, nodes: Sequence[Node], cuts: dict[Node, _Cut]) -> tuple[float, int]:
    """Cycles that a chain saves, and the images of its bands; 0 images where it does not pay."""
    batch, units = cuts[nodes[0]].batch, _units(nodes, cuts)
    each = sum(map(_bytes, units)) / max(batch, 1)
    unit = lcm(*units.values())
    images = max(1, int(BAND_BYTES / max(each, 1)) // unit) * unit
    if images * each > MOST_BAND_BYTES or ceil(batch / images) < b.tiles_wanted:
        return 0.0, 0
    bands = ceil(batch / images)
    saved = sum(_way(first.output) for first, _ in pairwise(nodes))
    weights = sum(_bytes(v) for node in nodes for v in node.reads if v.parameter is not None)
    streamed = weights * bands / L3_BYTES_PER_CYCLE if images * each + weights > L2_BYTES else 0.0
    cost = streamed + CALL_CYCLES * len(nodes) * bands
    return (saved - cost, images) if saved > cost else (0.0, 0)


def _units(nodes: Sequence[Node], cuts: dict[Node, _Cut]) -> dict[Value, int]:
    """The values that a chain reads and writes band by band, and how many images an index of each stands for."""
    units: dict[Value, int] = {}
    for node in nodes:
        units.update(dict.fromkeys((v for v in cuts[node].read if v not in units), 1))
        units[node.output] = cuts[node].images.unit
    return units


def _bytes(value: Value) -> int:
    return value.dtype.itemsize * prod(n or 1 for n in value.shape)


def _way(value: Value) -> float:
    """Cycles that a value takes to come back from where it went."""
    size = _bytes(value)
    if size < L2_BYTES:
        return 0.0
    return size / (MEMORY_RATE if size > L3_BYTES else L3_RATE)


# Lowering


def lower_image_chain(b: PlanBuilder, run: Run) -> None:
    """Append the step that computes a chain."""
    cuts = _cuts(run.nodes)
    batch, units = cuts[run.nodes[0]].batch, _units(run.nodes, cuts)
    firsts = range(0, batch, run.images)
    outside = {v: BandStorage.of_images(b.view(v), [first // unit for first in firsts]) for v, unit in units.items()}
    variants: dict[int, list[Step]] = {}
    variant_of = []
    for first in firsts:
        images = min(run.images, batch - first)
        if images not in variants:
            with b.apart() as steps:
                _lower_band(b, cuts, {v: storage.view(ceil(images / units[v])) for v, storage in outside.items()})
            variants[images] = steps
        variant_of.append(list(variants).index(images))
    b.chain_step(f"{run.nodes[0].name} .. {run.nodes[-1].name}",
                 Bands(list(variants.values()), variant_of, list(outside.values()), 1),
                 sum(node.layer.macs(node) for node in run.nodes), f"{len(firsts)} bands of {run.images} images")


def _lower_band(b: PlanBuilder, cuts: dict[Node, _Cut], views: dict[Value, View]) -> None:
    """Append the kernel calls of one band: its nodes, as those of a small batch that lies in these views."""
    stand_ins = {v: b.let(Value(view.shape, v.dtype, v.name), view) for v, view in views.items()}
    for node, cut in cuts.items():
        inputs = [stand_ins[v] if is_cut else v for v, is_cut in zip(node.inputs, cut.images.inputs, strict=True)]
        epilogue = node.epilogue
        if epilogue is not None and epilogue.add is not None:
            epilogue = replace(epilogue, add=stand_ins[epilogue.add])
        piece = Node(node.layer, inputs, node.weights, node.name, epilogue)
        piece.outputs = [stand_ins[node.output]]
        stand_ins[node.output].node = piece
        b.lower_node(piece)
