"""What a plan computes once: in which order, and in whose memory.

Weights are read from their file, transposed, scaled and packed one layer after the other, so that what lies between the
file and the packed form takes the memory of one layer, not of the network, and is still in the cache when it is read.
The largest layers come first, while little else is there. The order changes no bit of any result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from cnnext.graph.memory import ALIGN_BYTES, Storage, aligned_bytes, plan_arena

if TYPE_CHECKING:
    from cnnext.graph.plan import Plan, Step

# Layers go together into one round, whose temporary memory all rounds share, up to this many bytes: so many that a program
# for each costs little, so few that they stay in a cache.
ROUND_BYTES = 8 << 20
# Temporary memory of a layer beyond this is given back after each step.
LARGE_BYTES = 64 << 20
PARALLEL_BYTES = 1 << 20    # what a round has to write for a second worker to pay


@dataclass
class Round:
    """Steps that run as one program.

    Attributes
    ----------
    steps : list of Step
    places : dict of Storage to int
        Offsets in the memory that all rounds share.
    begins, ends : list of Storage
        Large ones, whose own memory is taken before this round and given back after it.
    """

    steps: list[Step]
    places: dict[Storage, int] = field(default_factory=dict)
    arena_bytes: int = 0
    begins: list[Storage] = field(default_factory=list)
    ends: list[Storage] = field(default_factory=list)


def rounds(steps: Sequence[Step], kept: Iterable[Storage]) -> list[Round]:
    """The steps of a prologue in rounds; ``kept`` are the storages that a run reads."""
    stays = set(kept)
    found: list[Round] = []
    waiting: list[list[Step]] = []
    waiting_bytes = 0
    for part in _parts(steps, stays):
        n_bytes = sum(s.n_bytes for s in _temporary(part, stays))
        if n_bytes > LARGE_BYTES:
            found += _one_by_one(part, stays)
            continue
        if waiting and waiting_bytes + n_bytes > ROUND_BYTES:
            found.append(_together(waiting, stays))
            waiting, waiting_bytes = [], 0
        waiting.append(part)
        waiting_bytes += n_bytes
    return [*found, _together(waiting, stays)] if waiting else found


def _temporary(steps: Sequence[Step], stays: set[Storage]) -> dict[Storage, tuple[int, int]]:
    """First and last step that touch what is not kept: results of steps, and parameters, which may lie in a file."""
    spans: dict[Storage, tuple[int, int]] = {}
    for i, step in enumerate(steps):
        for view in (*step.src, *step.dst):
            storage = view.storage
            if storage not in stays and (storage.kind == "prologue" or storage.parameter is not None):
                spans[storage] = (spans.get(storage, (i, i))[0], i)
    return spans


def _parts(steps: Sequence[Step], stays: set[Storage]) -> list[list[Step]]:
    """The steps in groups that share no memory but constants, those with the largest first."""
    parent = list(range(len(steps)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[Storage, int] = {}
    for i, step in enumerate(steps):
        for storage in (v.storage for v in (*step.src, *step.dst)):
            if storage.kind == "prologue" or storage.parameter is not None:
                parent[root(i)] = root(first.setdefault(storage, i))
    groups: dict[int, list[Step]] = {}
    for i, step in enumerate(steps):
        groups.setdefault(root(i), []).append(step)
    return sorted(groups.values(), key=lambda g: -max((s.n_bytes for s in _temporary(g, stays)), default=0))


def _together(parts: Sequence[Sequence[Step]], stays: set[Storage]) -> Round:
    """One round. Parameters are read before its first step; results of one part take the memory of those of the last."""
    places: dict[Storage, int] = {}
    temporary = [_temporary(part, stays) for part in parts]
    end = 0
    for storage in (s for spans in temporary for s in spans if s.parameter is not None):
        places[storage] = end
        end += -(-storage.n_bytes // ALIGN_BYTES) * ALIGN_BYTES
    most = 0
    for spans in temporary:
        results = {s: span for s, span in spans.items() if s.parameter is None}
        most = max(most, plan_arena(results))
        places.update((s, end + s.offset_bytes) for s in results)
    return Round([step for part in parts for step in part], places, end + most)


def _one_by_one(steps: list[Step], stays: set[Storage]) -> list[Round]:
    spans = _temporary(steps, stays)
    return [Round([step], begins=[s for s, span in spans.items() if span[0] == i],
                  ends=[s for s, span in spans.items() if span[1] == i]) for i, step in enumerate(steps)]


def temporary_bytes(found: Sequence[Round]) -> int:
    """The most memory that rounds take beside what is kept."""
    most = held = 0
    for r in found:
        held += sum(s.n_bytes for s in r.begins)
        most = max(most, held)
        held -= sum(s.n_bytes for s in r.ends)
    return most + max((r.arena_bytes for r in found), default=0)


def run_rounds(plan: Plan, found: Sequence[Round], n_threads: int) -> None:
    """Compute what is kept, taking memory for it where it has none yet."""
    _take_memory([s for s in plan._kept if s.array is None])
    arena = aligned_bytes(max((r.arena_bytes for r in found), default=0))
    large: dict[Storage, np.ndarray] = {}
    for r in found:
        large.update((s, _filled(s, aligned_bytes(s.n_bytes))) for s in r.begins)
        buffers = large | {s: _filled(s, arena[at : at + s.n_bytes]) for s, at in r.places.items()}
        written = sum(v.size * v.storage.dtype.itemsize for step in r.steps for v in step.dst)
        plan.program(r.steps, buffers).run(n_threads if written >= PARALLEL_BYTES else 1)
        for storage in r.ends:
            del large[storage]


def _take_memory(kept: Sequence[Storage]) -> None:
    """One piece for all: the system backs it by large pages, of which fewer have to be fetched, now and in each run."""
    sizes = [-(-s.n_bytes // ALIGN_BYTES) * ALIGN_BYTES for s in kept]
    memory = aligned_bytes(sum(sizes))
    for storage, size, end in zip(kept, sizes, accumulate(sizes), strict=True):
        storage.array = memory[end - size : end - size + storage.n_bytes]


def _filled(storage: Storage, memory: np.ndarray) -> np.ndarray:
    """The memory of a parameter that is in memory, or ``memory``, into which one is read that is in a file."""
    if storage.parameter is None:
        return memory
    stored = storage.parameter.stored
    if stored is None:
        return storage.parameter.data
    stored.read_into(memory)
    return memory
