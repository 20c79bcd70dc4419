"""Drops activations in the forward pass of a training step and computes them again in the backward pass.

The nodes that the loss depends on are cut into segments. What a later segment reads is kept, and the last segment; what lies
between two cuts is computed again, from what is kept, just before the first backward node that reads it. With n layers of
one size and segments of sqrt(n) of them, some 2 sqrt(n) activations are in memory at a time instead of n, for less than one
more forward pass (T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016).

Layers differ in size, so the cuts are chosen. For a bound on the bytes of a segment, dynamic programming finds the cuts that
keep the least; of several bounds, the one counts whose nodes need the least memory when they run in their order.

The pass comes after all others: what it repeats are the very kernel calls of the forward pass, so gradients have the same
bits. Nodes that change parameters (running statistics) are not repeated. Layers written in NumPy, which may keep arrays or
draw numbers, are not either: what they read and make is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf, prod

from cnnext.graph.graph import Graph, Node, Value, ancestors
from cnnext.layers.layer import Layer

BOUNDS = 32             # on the bytes of a segment: all of them divided by 1, 2, ...
SMALL = 64              # a result so many times smaller than the largest source is kept, and what follows from such ones: it
                        # is dear, and takes no memory


def recompute(graph: Graph) -> Graph:
    """The graph of a training step with few activations kept."""
    step = _Step(graph)
    schedule = min(map(step.schedule, step.candidates()), key=step.peak_bytes)
    step.apply(schedule)
    return graph


def kept_bytes(graph: Graph) -> int:
    """Bytes of what a training step keeps of its forward pass for the backward pass."""
    step = _Step(graph)
    kept = {step.root(v) for node in step.backward for v in node.reads if v in step.made}
    return sum(map(_n_bytes, kept))


@dataclass
class _Schedule:
    """In which order a step runs.

    Attributes
    ----------
    entries : list of (Node, bool)
        The second says whether the node is repeated here.
    dropped : set of Value
        What repeated nodes make: backward and repeated nodes read the second one of them.
    """

    entries: list[tuple[Node, bool]]
    dropped: set[Value]


class _Step:
    """The nodes of a training step.

    Attributes
    ----------
    forward : list of Node
        What the loss depends on.
    made : dict of Value to int
        Which forward node makes a value.
    effects : list of Node
        What the forward pass changes, such as running statistics.
    backward : list of Node
        All others.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        needed = set(ancestors(graph.outputs))
        self.forward = [node for node in graph.nodes if node in needed]
        self.made = {v: i for i, node in enumerate(self.forward) for v in node.outputs}
        self.effects = [node for node in graph.effects if all(v.node is None or v.node in needed for v in node.reads)]
        others = needed.union(self.effects)
        self.backward = [node for node in graph.nodes if node not in others]
        self._root: dict[Value, Value] = {}
        for node in graph.nodes:
            if node.layer.views_input:
                self._root.update((v, self.root(node.inputs[0])) for v in node.outputs)
        self._pinned = {self.root(v) for v in self._find_pinned()}

    def root(self, value: Value) -> Value:
        """The value in whose memory this one lies."""
        return self._root.get(value, value)

    def _find_pinned(self) -> Iterator[Value]:
        """Values that are kept in any case."""
        yield from self.graph.outputs
        small: set[Value] = set()
        for node in self.forward:
            if type(node.layer).forward is not Layer.forward:
                yield from (*node.reads, *node.outputs)
            largest = max(map(_n_bytes, node.reads), default=0)
            follows = any(v in small for v in node.reads) and all(v in small for v in node.reads if v.node is not None)
            new = [v for v in node.outputs if SMALL * _n_bytes(v) <= largest or follows and _n_bytes(v) <= largest]
            small.update(new)
            yield from new

    def _droppable_bytes(self, value: Value) -> int:
        """What there is to win: nothing for a view, and for what is kept in any case."""
        return 0 if value in self._root or value in self._pinned or value not in self.made else _n_bytes(value)

    # Where to cut

    def candidates(self) -> list[list[int]]:
        """Where segments end, for several bounds on the bytes of a segment."""
        sizes = [sum(map(self._droppable_bytes, node.outputs)) for node in self.forward]
        crossing = self._crossing_bytes()
        found = (_best_cuts(sizes, crossing, sum(sizes) / k) for k in range(1, BOUNDS + 1))
        return [list(cuts) for cuts in dict.fromkeys(map(tuple, found))]

    def _crossing_bytes(self) -> list[int]:
        """For each forward node, the bytes of what is made before it and read by it or later."""
        last = {self.root(v): i for i, node in enumerate(self.forward) for v in node.reads}
        change = [0] * (len(self.forward) + 1)
        for value, end in last.items():
            if size := self._droppable_bytes(value):
                change[self.made[value] + 1] += size
                change[end + 1] -= size
        return list(accumulate(change[:-1]))

    # The order

    def schedule(self, cuts: Sequence[int]) -> _Schedule:
        """Repeat the nodes of each segment but the last where the backward pass first reads what they make."""
        segment = list(accumulate((i in cuts for i in range(len(self.forward))), initial=0))[1:]
        crossing = {self.root(v) for i, node in enumerate(self.forward) for v in node.reads
                    if v in self.made and segment[self.made[v]] != segment[i]}
        kept = self._pinned | crossing
        wanted = {v for node in self.backward for v in node.reads}
        repeated: dict[int, list[Node]] = {}
        for i in range(len(self.forward) - 1, -1, -1):
            node = self.forward[i]
            if segment[i] != segment[-1] and any(v in wanted and self.root(v) not in kept for v in node.outputs):
                repeated.setdefault(segment[i], []).insert(0, node)
                wanted.update(node.reads)
        dropped = {v for nodes in repeated.values() for n in nodes for v in n.outputs if self.root(v) not in kept}
        entries = [(node, False) for node in self.forward]
        for node in self.backward:
            for part in sorted({segment[self.made[v]] for v in node.reads if v in dropped}):
                entries += [(n, True) for n in repeated.pop(part, ())]
            entries.append((node, False))
        return _Schedule(entries, dropped)

    def _keys(self, values: Iterable[Value], second: bool, dropped: set[Value]) -> list[tuple[Value, bool]]:
        """Which memory is meant: the value in whose memory each lies, the first or the second time."""
        return [(self.root(v), second and v in dropped) for v in values if v.node is not None]

    def peak_bytes(self, schedule: _Schedule) -> int:
        """The most that values need at a time."""
        spans: dict[tuple[Value, bool], tuple[int, int]] = {}
        behind = set(self.backward)
        for i, (node, again) in enumerate(schedule.entries):
            keys = [*self._keys(node.reads, again or node in behind, schedule.dropped),
                    *self._keys(node.outputs, again, schedule.dropped)]
            spans.update((key, (spans.get(key, (i, i))[0], i)) for key in keys)
        change = [0] * (len(schedule.entries) + 1)
        for (value, _), (first, last) in spans.items():
            change[first] += _n_bytes(value)
            change[last + 1] -= _n_bytes(value)
        return max(accumulate(change))

    def apply(self, schedule: _Schedule) -> None:
        """Make the nodes that are repeated, and let those that read them do so."""
        second: dict[Value, Value] = {}
        behind, nodes = set(self.backward), []
        for node, again in schedule.entries:
            if again:
                node = _repetition(node, second, schedule.dropped)
            elif node in behind:
                node.exchange_reads(lambda v: second.get(v, v))
            nodes.append(node)
        self.graph.nodes = [*nodes, *self.effects]


def _best_cuts(sizes: Sequence[int], crossing: Sequence[int], bound: float) -> list[int]:
    """The cuts that leave least crossing bytes in all, where no segment of several nodes is larger than a bound.

    Parameters
    ----------
    sizes : list of int
        Bytes that each node makes.
    crossing : list of int
        Bytes that must be kept if a segment begins with this node.
    """
    n = len(sizes)
    least, before = [0.0] + [inf] * n, [0] * (n + 1)    # for the nodes before each cut
    for end in range(1, n + 1):
        inside = 0
        for start in range(end - 1, -1, -1):
            inside += sizes[start]
            if inside > bound and start < end - 1:
                break
            total = least[start] + (crossing[end] if end < n else 0)
            if total <= least[end]:
                least[end], before[end] = total, start
    cuts = []
    end = before[n]
    while end:
        cuts.append(end)
        end = before[end]
    return cuts[::-1]


def _repetition(node: Node, second: dict[Value, Value], dropped: set[Value]) -> Node:
    """A node that computes the same again; notes in ``second`` what it makes of what was dropped."""
    epilogue = replace(node.epilogue) if node.epilogue is not None else None
    copy = Node(node.layer, node.inputs, node.weights, f"{node.name}/again", epilogue)
    copy.is_repeated = True
    copy.exchange_reads(lambda v: second.get(v, v))
    copy.outputs = [Value(v.shape, v.dtype, f"{v.name}/again", copy) for v in node.outputs]
    second.update((old, new) for old, new in zip(node.outputs, copy.outputs, strict=True) if old in dropped)
    return copy


def _n_bytes(value: Value) -> int:
    return prod(n or 0 for n in value.shape) * value.dtype.itemsize
