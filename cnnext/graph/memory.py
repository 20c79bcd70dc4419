"""Where values lie: storages, views into them, zero-copy concat, split and reshape, one arena for what is temporary."""

from __future__ import annotations

import os
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from cnnext.errors import message
from cnnext.graph.graph import FLOAT32, Graph, Node, Parameter, Value
from cnnext.layers.layer import Layer
from cnnext.plugins import contained

ALIGN_BYTES = 64
MAX_AXES = 32  # NumPy 1 takes no more
MAX_ELEMENTS = 2**38  # 1 TiB of float32: a shape beyond that is a mistake, and offsets stay far from overflow


def memory_limit() -> int:
    """Bytes that one plan may ask for: ``CNNEXT_MEMORY_LIMIT``, by default what the machine or the container has.

    Whoever opens the models of others sets it lower: a file of a hundred bytes can describe terabytes.
    """
    given = os.environ.get("CNNEXT_MEMORY_LIMIT", "")
    if not given:
        return _machine_bytes()
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise ValueError(message("environment", "CNNEXT_MEMORY_LIMIT", "be a whole number of bytes", given))
    return int(given)


@lru_cache(maxsize=1)
def _machine_bytes() -> int:
    """The machine's memory, or less where a cgroup (v2, v1) allows less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):   # no such file, or "max"
            pass
    return min(limits)


def check_memory(where: str, n_bytes: int, limit: int | None = None) -> None:
    """Refuse what is beyond the limit (``memory_limit()``) before it is allocated.

    Raises
    ------
    ValueError
    """
    limit = memory_limit() if limit is None else limit
    if n_bytes > limit:
        raise ValueError(message(where, "memory", f"be at most {limit} bytes (CNNEXT_MEMORY_LIMIT, or what there is)",
                                 n_bytes))


class Storage:
    """A piece of memory.

    Attributes
    ----------
    kind : str
        ``"arena"`` (lives from its first writer to its last reader), ``"input"`` and ``"output"`` (the caller's),
        ``"fixed"`` (a parameter or a constant), ``"prologue"`` (computed once from fixed ones), ``"scratch"`` (lives while a
        worker computes a band), ``"band"`` (rows of a value).
    size : int
        Elements.
    array : ndarray or None
        The memory of a constant or of a prologue storage that is kept.
    parameter : Parameter or None
        Whose contents a fixed storage is.
    shared : bool
        Several nodes write parts of it.
    """

    __slots__ = ("array", "dtype", "index", "kind", "offset_bytes", "parameter", "shared", "size", "slot")

    def __init__(self, kind: str, size: int, dtype: np.dtype = FLOAT32, array: np.ndarray | None = None):
        self.kind = kind
        self.size = size
        self.dtype = dtype
        self.array = array
        self.parameter: Parameter | None = None
        self.shared = False
        self.slot = 0
        self.index = 0
        self.offset_bytes = 0

    @property
    def n_bytes(self) -> int:
        return self.size * self.dtype.itemsize


class BandStorage(Storage):
    """The part of a value that lies at hand while a chain computes a band: some rows of an image, or some images.

    Attributes
    ----------
    host : View
        The whole value.
    offsets : list of int
        Where each band of an image begins, in elements; where a band is of images, each of all bands.
    image_step : int
        Elements from image to image; 0 where all share one.
    """

    __slots__ = ("host", "image_step", "offsets")

    def __init__(self, host: View, offsets: Sequence[int], image_step: int):
        super().__init__("band", host.size, host.storage.dtype)
        self.host = host
        self.offsets = list(offsets)
        self.image_step = image_step

    @staticmethod
    def of_rows(host: View, first_rows: Sequence[int]) -> BandStorage:
        """Rows of each image of a value (N, H, W, C), from these on."""
        return BandStorage(host, [row * host.strides[1] for row in first_rows],
                           host.strides[0] if host.shape[0] > 1 else 0)

    @staticmethod
    def of_images(host: View, first: Sequence[int]) -> BandStorage:
        """Indices of the first axis, from these on."""
        return BandStorage(host, [i * host.strides[0] for i in first], 0)

    def view(self, *shape: int) -> View:
        """The part at hand: the first extents of its shape, the others being the value's."""
        return View(self, 0, (*shape, *self.host.shape[len(shape) :]), self.host.strides)


@dataclass(frozen=True)
class View:
    """A strided window into a storage. Offset and strides are elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def dense(storage: Storage, shape: tuple[int, ...]) -> View:
        """The C-contiguous view of a whole storage."""
        return View(storage, 0, shape, dense_strides(shape))

    @property
    def size(self) -> int:
        return prod(self.shape)

    def walks_like(self, other: View) -> bool:
        """Whether both give the same positions in their storages, element for element."""
        return (self.offset, self.shape, self.strides) == (other.offset, other.shape, other.strides)

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        return all(s == d or n == 1 for n, s, d in zip(self.shape, self.strides, dense_strides(self.shape), strict=True))

    @property
    def rows_are_uniform(self) -> bool:
        """Whether all pixels (positions before the last axis) lie at one constant distance."""
        axes = [(n, s) for n, s in zip(self.shape[:-1], self.strides[:-1], strict=True) if n > 1]
        return all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(axes))

    @property
    def row_stride(self) -> int:
        """Distance of neighbouring pixels, where rows are uniform."""
        axes = [s for n, s in zip(self.shape[:-1], self.strides[:-1], strict=True) if n > 1]
        return axes[-1] if axes else self.shape[-1]

    def reshaped(self, shape: tuple[int, ...]) -> View | None:
        """The same elements in C order under another shape, or None where that needs a copy."""
        if self.is_dense:
            return View(self.storage, self.offset, shape, dense_strides(shape))
        if shape and self.shape and shape[-1] == self.shape[-1] and self.rows_are_uniform:
            strides = tuple(s // shape[-1] * self.row_stride for s in dense_strides(shape)[:-1]) if shape[-1] else ()
            return View(self.storage, self.offset, shape, (*strides, 1)) if shape[-1] else None
        return None

    def sliced(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        """Indices ``start`` to ``stop`` (exclusive) of one axis."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis] = max(0, -(-(stop - start) // step))
        strides[axis] *= step
        return replace(self, offset=self.offset + start * self.strides[axis], shape=tuple(shape), strides=tuple(strides))

    def permuted(self, axes: tuple[int, ...]) -> View:
        """The axes in another order; only for kernels that do not ask for contiguous channels."""
        return replace(self, shape=tuple(self.shape[a] for a in axes), strides=tuple(self.strides[a] for a in axes))

    def expanded(self, shape: tuple[int, ...]) -> View:
        """Broadcast to a shape with strides of 0."""
        lead = len(shape) - len(self.shape)
        strides = [0] * lead + [0 if n == 1 and m != 1 else s
                                for n, m, s in zip(self.shape, shape[lead:], self.strides, strict=True)]
        return replace(self, shape=shape, strides=tuple(strides))


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a C-contiguous array, in elements."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1)
    return tuple(strides)


def padded_channels(shape: tuple[int, ...]) -> int:
    """The distance of neighbouring pixels: C, or C + 16 where C pixels apart would fall into the same L1 sets.

    Broadcasting from several pixels at a stride of 1 KiB or a multiple costs up to 30 % (4K aliasing).
    """
    channels = shape[-1]
    several_pixels = len(shape) >= 3 and prod(shape[1:-1]) > 1
    return channels + 16 if several_pixels and channels and channels % 256 == 0 else channels


def padded_view(shape: tuple[int, ...], dtype: np.dtype = FLOAT32) -> View:
    """New memory of an arena, its pixels as far apart as ``padded_channels`` says."""
    ld = padded_channels(shape) if shape else 0
    if not shape or ld in (0, shape[-1]):
        return View.dense(Storage("arena", prod(shape), dtype), shape)
    return View(Storage("arena", prod(shape[:-1]) * ld, dtype), 0, shape, dense_strides((*shape[:-1], ld)))


class Layout:
    """Gives every value of a graph with concrete shapes its view.

    Concat-like layers (``place``) let their inputs be computed inside their output; reshape-like layers (``view``) let
    their output be read inside their input. Where both want the same value, the first wins and the other copies.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._memory_limit = memory_limit()
        self._views: dict[Value, View] = {}
        self._outputs = set(graph.outputs)
        self._dense = {v for node in graph.nodes if node.layer.views_input for v in node.inputs}
        self._dense |= {v for node in graph.nodes if node.layer.dense_outputs for v in node.outputs}
        self._placed = self._choose_placements()
        self._last = self._choose_last()

    def _choose_placements(self) -> dict[Value, tuple[Node, int]]:
        placed: dict[Value, tuple[Node, int]] = {}
        for node in reversed(self.graph.nodes):
            if type(node.layer).place is Layer.place:
                continue
            for i, value in enumerate(node.inputs):
                if value.node is None or value in placed or value in self._outputs or value.node.layer.views_input:
                    continue
                if node.is_repeated and not value.node.is_repeated:
                    continue    # else the output's memory would be taken from the forward pass on
                placed[value] = (node, i)
        return placed

    def _choose_last(self) -> dict[Value, Node]:
        """Values that a reshaping makes an output of, and which can therefore be computed in the output's memory."""
        last: dict[Value, Node] = {}
        for node in self.graph.nodes:
            if len(node.outputs) != 1 or node.output not in self._outputs or not node.layer.keeps_order:
                continue
            (value,) = node.inputs
            if value.node is not None and value not in self._outputs and not value.node.layer.views_input:
                last.setdefault(value, node)
        return last

    def view(self, value: Value) -> View:
        """The view of a value, decided on first use."""
        if value not in self._views:
            self._views[value] = self._decide(value)
        return self._views[value]

    def _decide(self, value: Value) -> View:
        shape = _concrete(value, self._memory_limit)
        if value.parameter is not None or value.data is not None:
            storage = Storage("fixed", prod(shape), value.dtype, value.data)
            storage.parameter = value.parameter
            return View.dense(storage, shape)
        if value.node is None:
            return View.dense(Storage("input", prod(shape), value.dtype), shape)
        if value in self._outputs:
            return View.dense(Storage("output", prod(shape), value.dtype), shape)
        if value in self._last and value not in self._placed:
            inside = self.view(self._last[value].output).reshaped(shape)
            assert inside is not None, "an output is dense"
            return inside
        if value in self._placed:
            node, index = self._placed[value]
            dst = self.view(node.output)
            with contained(node.layer, "place"):
                views = node.layer.place(node, dst)
            if views is not None:
                dst.storage.shared = True
                return views[index]
        if value.node.layer.views_input:
            src = self.view(value.node.inputs[0])
            with contained(value.node.layer, "view"):
                view = value.node.layer.view(value.node, src)
            if isinstance(view, View):
                return view
            if view is not None:
                return view[value.node.outputs.index(value)]
        return View.dense(Storage("arena", prod(shape), value.dtype), shape) if value in self._dense else padded_view(
            shape, value.dtype)


def _concrete(value: Value, limit: int) -> tuple[int, ...]:
    if any(n is None for n in value.shape):
        raise ValueError(message(value.name, "shape", "be known when the plan is made", value.shape))
    shape = tuple(int(n) for n in value.shape if n is not None)
    if len(shape) > MAX_AXES:
        raise ValueError(message(value.name, "shape", f"have at most {MAX_AXES} axes", shape))
    if prod(shape) > MAX_ELEMENTS:
        raise ValueError(message(value.name, "shape", f"have at most {MAX_ELEMENTS} elements", shape))
    check_memory(value.name, prod(shape) * value.dtype.itemsize, limit)
    return shape


def plan_arena(lifetimes: dict[Storage, tuple[int, int]]) -> int:
    """Give every storage an offset in one arena, greedily by size, and return the arena's bytes.

    ``lifetimes``: first and last step that touch the storage, inclusive. Two storages share memory only if their
    lifetimes are disjoint. Greedy-by-size stays near the lower bound on networks (Pisarchyk & Lee 2020,
    arXiv 2001.03288).
    """
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    total = 0
    for storage, (first, last) in sorted(lifetimes.items(), key=lambda item: (-item[0].n_bytes, item[1])):
        n_bytes = -(-max(storage.n_bytes, 1) // ALIGN_BYTES) * ALIGN_BYTES
        offset = 0
        for start, end, other_first, other_last in placed:
            if other_first > last or other_last < first:
                continue
            if offset + n_bytes <= start:
                break
            offset = max(offset, end)
        storage.offset_bytes = offset
        insort(placed, (offset, offset + n_bytes, first, last))
        total = max(total, offset + n_bytes)
    return total


GUARD_BYTES = 256
GUARD = 0xFF  # as float32 a NaN, so that reading a guard zone shows in the result as well


def plan_guarded_arena(storages: Iterable[Storage]) -> int:
    """Give every storage memory of its own with a guard zone after it, and return the arena's bytes."""
    end = GUARD_BYTES
    for storage in storages:
        storage.offset_bytes = end
        end += -(-max(storage.n_bytes, 1) // ALIGN_BYTES) * ALIGN_BYTES + GUARD_BYTES
    return end


def guard_zones(storages: Iterable[Storage]) -> list[tuple[int, int]]:
    """First and last byte (exclusive) of the zones around storages that ``plan_guarded_arena`` has placed."""
    ends = [(s.offset_bytes + s.n_bytes, s.offset_bytes + s.n_bytes + GUARD_BYTES) for s in storages]
    return [(0, GUARD_BYTES), *ends]


Overwrites = Sequence[tuple[Sequence[View], View]]


def reuse_in_place(steps: Sequence[Overwrites], spans: dict[Storage, tuple[int, int]]) -> dict[Storage, Storage]:
    """Let results of elementwise kernels take the memory of a source that dies there; shortens ``spans`` accordingly.

    ``steps``: of each step the kernels that read and write the same positions only: sources that nothing else in the step
    touches, and the result. A source's memory is taken only if result and source are walked alike, element for element, and
    nobody reads the source later.

    Returns
    -------
    dict
        Result storage -> the storage whose memory it takes.
    """
    host_of: dict[Storage, Storage] = {}
    for i, step in enumerate(steps):
        for src, dst in step:
            if not dst.storage.shared and spans.get(dst.storage, (-1, -1))[0] == i:
                _take_place(i, src, dst, spans, host_of)
    return host_of


def _take_place(step: int, src: Sequence[View], dst: View, spans: dict[Storage, tuple[int, int]],
                host_of: dict[Storage, Storage]) -> None:
    result = dst.storage
    for view in src:
        host = host_of.get(view.storage, view.storage)
        readers = [v for v in src if host_of.get(v.storage, v.storage) is host]
        if (host.kind == "arena" and not view.storage.shared and spans[host][1] == step
                and view.storage.n_bytes == host.n_bytes == result.n_bytes
                and all(v.walks_like(dst) for v in readers)):
            host_of[result] = host
            spans[host] = (spans[host][0], spans.pop(result)[1])
            return


def lifetimes(steps: Iterable[tuple[Iterable[View], Iterable[View]]]) -> dict[Storage, tuple[int, int]]:
    """First and last step (by index) that touch each arena storage."""
    spans: dict[Storage, tuple[int, int]] = {}
    for i, (src, dst) in enumerate(steps):
        for view in (*src, *dst):
            if view.storage.kind == "arena":
                spans[view.storage] = (spans.get(view.storage, (i, i))[0], i)
    return spans


def harmed(memory: np.ndarray, spans: Iterable[tuple[int, int]]) -> bool:
    """Whether any byte of a guarded memory outside the spans (first and last byte, exclusive) was written."""
    outside = np.ones(memory.size, bool)
    for first, last in spans:
        outside[first:last] = False
    return bool((memory[outside] != GUARD).any())


def guarded_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array of NaN bytes with guard zones of NaN bytes before and after it."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = aligned_bytes(n_bytes + 2 * GUARD_BYTES)
    memory[...] = GUARD
    return memory[GUARD_BYTES : GUARD_BYTES + n_bytes].view(dtype).reshape(tuple(shape))


def zones_harmed(array: np.ndarray) -> bool:
    """Whether the zones around an array of ``guarded_empty`` were written."""
    memory = array.base
    assert memory is not None
    inside = array.ctypes.data - memory.ctypes.data
    return harmed(memory[inside - GUARD_BYTES : inside + array.nbytes + GUARD_BYTES],
                  [(GUARD_BYTES, GUARD_BYTES + array.nbytes)])


def aligned_bytes(n_bytes: int) -> np.ndarray:
    """Uninitialised memory on a cache-line boundary."""
    raw = np.empty(n_bytes + ALIGN_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGN_BYTES
    return raw[start : start + n_bytes]
