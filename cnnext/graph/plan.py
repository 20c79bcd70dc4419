"""From a graph with concrete shapes to a program: the list of kernel calls, the arena, and the memory that is fixed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext._native import executor
from cnnext.errors import KernelError, PluginError
from cnnext.graph.graph import FLOAT32, Epilogue, Graph, Node, Parameter, Value
from cnnext.graph.kernels import KERNEL_CAPSULE, is_kernel, kernel, pack_params
from cnnext.graph.memory import (
    GUARD,
    GUARD_BYTES,
    BandStorage,
    Layout,
    Overwrites,
    Storage,
    View,
    aligned_bytes,
    check_memory,
    guarded_empty,
    harmed,
    lifetimes,
    plan_arena,
    plan_guarded_arena,
    reuse_in_place,
    zones_harmed,
)
from cnnext.graph.prologue import rounds, run_rounds, temporary_bytes
from cnnext.plugins import contained, provider
from cnnext.threads import new_lock

if TYPE_CHECKING:
    from cnnext.graph.chains import Bands, Run
    from cnnext.graph.profile import Profile
    from cnnext.tuning import Tuner

    Chooser = Callable[["PlanBuilder", Graph], Sequence[Run]]

# By their codes in cnnext_plugin.h; element types that have none there are numbered from CNX_OTHER_DTYPE on as they come.
DTYPES: dict[int, Any] = dict(enumerate(map(np.dtype, (
    np.float32, np.int64, np.float64, np.float16, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32, np.uint64,
    np.bool_,
))))
CNX_OTHER_DTYPE = 64
_DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


def dtype_code(dtype: np.dtype) -> int:
    """The number under which tensors of a plan carry an element type."""
    if dtype not in _DTYPE_CODES:
        code = CNX_OTHER_DTYPE + len(_DTYPE_CODES)
        DTYPES[code] = dtype
        _DTYPE_CODES[dtype] = code
    return _DTYPE_CODES[dtype]


# Below this many operations one worker runs alone. A million take it 10 to 20 us, of which a second one saves a few
# (LeNet-5: 9.7 against 11.1 us); but where other programs want the cores, the end of a region waits for a time slice.
PARALLEL_THRESHOLD = 1_000_000
TILES_WANTED = 16       # of a step, so that a worker that is preempted delays it by at most 1/16


def switched_on(name: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(name, "0") not in ("", "0")


@dataclass
class Step:
    """One kernel call of a plan."""

    name: str
    kernel: str
    entry: Any
    src: list[View]
    dst: list[View]
    params: bytes
    tiles: int
    scratch_bytes: int
    macs: int
    why: str
    elementwise: bool
    provider: str = ""
    bands: Bands | None = None      # of a chain, which is one step of several kernels

    @property
    def title(self) -> str:
        """How errors call the step: node, kernel, and the plugin that it comes from."""
        return f"{self.name} ({self.kernel}{self.provider})"

    @property
    def parts(self) -> list[Step]:
        """The kernel calls of a chain's usual band; of any other step, itself."""
        return [self] if self.bands is None else self.bands.parts

    @property
    def overwrites(self) -> Overwrites:
        """Sources that results may take the place of: of elementwise kernels, where no other of the step reads them."""
        if self.bands is not None:
            return self.bands.overwrites
        return [(self.src, self.dst[0])] if self.elementwise and self.dst else []

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written, each element once."""
        return sum(v.size * v.storage.dtype.itemsize for v in (*self.src, *self.dst))


class PlanBuilder:
    """What a layer's ``lower`` talks to: views of the node's values, and ``step`` to append a kernel call.

    Attributes
    ----------
    vl, max_nv : int
        Vector length (floats) and widest GEMM panel (vectors) of the instruction-set level.
    tile_rows : list of int
        Rows of the full GEMM tile for a panel of 1, 2, ... vectors.
    training : bool
    exact : bool
        Sums are to be added up as they are defined: no Winograd.
    tuner : Tuner or None
        Measures what there is to choose from; without it, a model of the costs decides.
    tiles_wanted : int
        Pieces that a step should have at least, to keep many workers busy.
    """

    def __init__(self, graph: Graph, level: str, exact: bool = False, tuner: Tuner | None = None):
        info = executor.level_info(level)
        if info is None:
            raise ValueError(f"plan: `isa` must be one of {executor.levels()} on this machine. Received isa={level!r}.")
        self.level: str = info["level"]
        self.vl: int = info["vl"]
        self.max_nv: int = info["max_nv"]
        self.tile_rows: list[int] = info["tile_rows"]
        self.training = graph.training
        self.exact = exact or switched_on("CNNEXT_EXACT")
        self.tuner = tuner
        self.tiles_wanted = TILES_WANTED
        self.steps: list[Step] = []
        self.prologue: list[Step] = []
        self._packed: dict[tuple[Any, ...], list[Storage]] = {}     # what bands compute once, and share
        self._same: dict[Storage, Storage] = {}
        self._once: set[Storage] = set()            # what is computed once before a chain
        self._before: list[Step] = []
        self._banding = False
        self._band_views: dict[Value, View] = {}
        self._graph = graph
        self._layout = Layout(graph)
        self._written: set[Storage] = set()     # by steps of a run
        self._constants: dict[tuple[Any, ...], View] = {}
        self._node_name = ""
        self._provider = ""
        self._providers: dict[type, str] = {}

    def view(self, value: Value) -> View:
        """Where a value lies."""
        return self._band_views[value] if value in self._band_views else self._layout.view(value)

    def let(self, value: Value, view: View) -> Value:
        """Say where a value lies while a band is lowered; returns the value."""
        self._band_views[value] = view
        return value

    def temp(self, shape: Sequence[int], dtype: np.dtype = FLOAT32) -> View:
        """Memory that lives from the first step that writes it to the last that reads it."""
        return View.dense(Storage("arena", prod(shape), np.dtype(dtype)), tuple(shape))

    def constant(self, array: np.ndarray) -> View:
        """A constant table or array; equal ones are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = View.dense(Storage("fixed", array.size, array.dtype, array), array.shape)
        return self._constants[key]

    def table(self, rows: Sequence[Sequence[int]]) -> View:
        """A constant table of int64 (offsets, taps)."""
        return self.constant(np.asarray(rows, dtype=np.int64))

    def step(self, name: str, src: Sequence[View], dst: Sequence[View], params: dict[str, Any] | None = None, *,
             tiles: int = 1, scratch_bytes: int = 0, macs: int = 0, why: str = "", elementwise: bool = False,
             entry: Any = None) -> None:
        """Append a kernel call.

        Parameters
        ----------
        name : str
            A kernel of ``cnnext.kernel_list``, or, with ``entry``, any name.
        params : dict
            The fields of the kernel's parameter struct.
        entry : (capsule, fields) or callable, optional
            A plugin's kernel with the fields of its parameter struct (what its module exports in ``KERNELS`` and
            ``PARAMS``), or a Python callable ``f(src_arrays, dst_arrays)``.
        tiles : int
            How many independent pieces the kernel cuts the work into; from shapes alone, never from the thread count.
        scratch_bytes : int
            Private memory that the kernel wants for a tile.
        why : str
            Shown by ``plan.explain()``: why this kernel.
        elementwise : bool
            Element i of the result depends on element i of the sources alone, so that it may overwrite one.
        """
        fields: Sequence[tuple[str, str]] = ()
        if entry is None:
            entry, fields = kernel(name)
        elif isinstance(entry, tuple):
            entry, fields = entry
            if not is_kernel(entry):
                raise PluginError(f"{self._node_name}: kernel {name!r} must be a capsule {KERNEL_CAPSULE!r}. "
                                  f"Received {entry!r}.")
        if self._banding and callable(entry):
            raise PluginError(f"{self._node_name}: a layer with `band` must lower to native kernels. "
                              f"Received entry={entry!r}.")
        packed = pack_params(name, tuple(fields), params or {})
        src = [replace(v, storage=self._same[v.storage]) if v.storage in self._same else v for v in src]
        step = Step(self._node_name, name, entry, src, list(dst), packed, tiles, scratch_bytes, macs, why,
                    elementwise, self._provider)
        if tiles <= 0 or all(v.size == 0 for v in dst):
            return
        if self._is_constant(step):
            for view in dst:
                view.storage.kind = "prologue"
            if not (self._banding and self._is_known(step)):
                self.prologue.append(step)
        elif self._banding and self._is_same_for_all(step):
            if not self._is_known(step):
                self._once.update(v.storage for v in step.dst)
                self._before.append(step)
        else:
            self._append(step)

    def _is_same_for_all(self, step: Step) -> bool:
        """Whether no band differs in what the step computes: weights that are packed anew in each training step."""
        own = any(isinstance(v.storage, BandStorage) for v in step.dst)
        return bool(step.src) and not own and all(v.storage in self._once or self._is_weights(v) for v in step.src)

    def _is_weights(self, view: View) -> bool:
        return view.storage.kind in ("fixed", "prologue")

    def _append(self, step: Step) -> None:
        self._leave_prologue(step.dst)
        self._written.update(v.storage for v in step.dst)
        self.steps.append(step)

    def _is_known(self, step: Step) -> bool:
        """Whether another band has packed the same: then its result is what this one's stands for."""
        views = tuple((v.storage, v.offset, v.shape, v.strides) for v in step.src)
        key = (step.kernel, views, step.params, tuple(v.shape for v in step.dst))
        written = [v.storage for v in step.dst]
        known = self._packed.setdefault(key, written)
        self._same.update((mine, other) for mine, other in zip(written, known, strict=True) if mine is not other)
        return known is not written

    @contextmanager
    def apart(self) -> Iterator[list[Step]]:
        """Collect the steps of a band, which one worker computes; nothing is timed for so few rows."""
        whole, tuner = self.steps, self.tuner
        self._before = whole
        self.steps, self.tuner, self._banding, self.tiles_wanted = [], None, True, 1
        try:
            yield self.steps
        finally:
            self.steps, self.tuner, self._banding, self.tiles_wanted = whole, tuner, False, TILES_WANTED
            self._band_views.clear()

    def chain_step(self, name: str, bands: Bands, macs: int, why: str) -> None:
        """Append the step of a chain."""
        scratch = max(part.scratch_bytes for parts in bands.variants for part in parts)
        self._append(Step(name, " + ".join(part.kernel for part in bands.parts), None, bands.outer_views("src"),
                          bands.outer_views("dst"), b"", len(bands.variant_of) * bands.images, scratch, macs, why, False,
                          bands=bands))

    def _leave_prologue(self, written: Sequence[View]) -> None:
        # A run writes here as well (the sum of two parameters and an input, a concat of both kinds): what was to be
        # computed once into this memory is computed in each run.
        for storage in {v.storage for v in written if v.storage.kind == "prologue"}:
            storage.kind = "arena"
            self.steps += [s for s in self.prologue if any(v.storage is storage for v in s.dst)]
            self.prologue = [s for s in self.prologue if all(v.storage is not storage for v in s.dst)]

    def _is_constant(self, step: Step) -> bool:
        return bool(step.src) and all(map(self.is_fixed, step.src)) and all(
            v.storage.kind in ("arena", "prologue") and not v.storage.shared and v.storage not in self._written
            for v in step.dst
        )

    def is_fixed(self, view: View) -> bool:
        """Whether a view holds parameters or constants, or what follows from them alone: the same in each run."""
        storage = view.storage
        changes = self.training and storage.parameter is not None and storage.parameter not in self._graph.frozen
        return storage.kind == "prologue" or storage.kind == "fixed" and not changes

    def lower_graph(self, chooser: Chooser | None = None) -> None:
        """Lower all nodes, those of chains together."""
        from cnnext.graph.chains import choose_runs, lower_chain
        from cnnext.graph.image_chains import lower_image_chain

        for run in (chooser or choose_runs)(self, self._graph):
            if run.rows:
                lower_chain(self, run)
            elif run.images:
                lower_image_chain(self, run)
            else:
                self.lower_node(run.nodes[0])

    def lower_node(self, node: Node) -> None:
        """Lower one node."""
        self._node_name = node.name
        kind = type(node.layer)
        if kind not in self._providers:
            owner = None if kind.__module__.startswith("cnnext.") else provider(kind)
            self._providers[kind] = f" of {owner.distribution} {owner.distribution_version}" if owner is not None else ""
        self._provider = self._providers[kind]
        with contained(node.layer, "lowering rule"):
            node.layer.lower(self, node)
        self._provider = ""


class Plan:
    """A graph made ready to run for one set of shapes on one instruction-set level.

    Parameters
    ----------
    graph : Graph
        Concrete shapes; all passes done.
    level : str
        Instruction-set level.
    guard : bool
        Give every value memory of its own between guard zones, and check them after each run: for tests and for
        looking into a plugin.
    exact : bool
        Sums are added up as they are defined: no Winograd. So does ``CNNEXT_EXACT=1``, for all plans.
    tuner : Tuner, optional
        Times the algorithms that there are for a shape, and remembers the result (``tune=True``).
    chooser : callable, optional
        Which nodes are computed together by bands: ``chooser(builder, graph)`` gives ``Run``s of all nodes, by default
        ``cnnext.graph.chains.choose_runs``.

    Notes
    -----
    A plan may be run from several Python threads at once: each run takes a context (an arena and a program bound to it)
    of its own from a pool.
    """

    def __init__(self, graph: Graph, level: str, guard: bool = False, exact: bool = False, tuner: Tuner | None = None,
                 chooser: Chooser | None = None):
        builder = PlanBuilder(graph, level, exact, tuner)
        builder.lower_graph(chooser)
        if tuner is not None:
            tuner.save()
        self.graph = graph
        self.guard = guard
        self.level = builder.level
        self.steps = builder.steps
        self.inputs = [builder.view(v) for v in graph.inputs]
        self.outputs = [builder.view(v) for v in graph.outputs]
        self._add_output_copies(builder)
        self._prologue = builder.prologue
        self._storages = self._number_storages()
        for step in self.steps:
            if step.bands is not None:
                step.bands.arrange(guard)
                step.scratch_bytes += step.bands.scratch_bytes
        spans = lifetimes((s.src, s.dst) for s in self.steps)
        if guard:
            self.arena_bytes = plan_guarded_arena(spans)
        else:
            hosts = reuse_in_place([s.overwrites for s in self.steps], spans)
            self.arena_bytes = plan_arena(spans)
            for storage, host in hosts.items():
                storage.offset_bytes = host.offset_bytes
        read = {v.storage for step in self.steps for v in step.src} | {v.storage for v in self.outputs}
        self._kept = [s for s in self._storages if s.kind == "prologue" and s in read]
        self._rounds = rounds(self._prologue, self._kept)
        self.prologue_bytes = sum(s.n_bytes for s in self._kept)
        self.scratch_bytes = max((s.scratch_bytes for s in self.steps), default=0)
        made = sum(v.storage.n_bytes for v in self.outputs)
        self.temporary_bytes = temporary_bytes(self._rounds)
        check_memory("plan", self.arena_bytes + self.prologue_bytes + self.scratch_bytes + self.temporary_bytes + made)
        work = sum(s.macs + s.moved_bytes // 4 for s in self.steps)
        self.parallel = work >= PARALLEL_THRESHOLD and any(s.tiles > 1 for s in self.steps)
        self._parameters: list[Parameter] = [p for p in graph.parameters() if not graph.training or p in graph.frozen]
        self._versions: list[int] | None = None
        self._changes = -1
        self._lock = new_lock(self)
        self._idle: list[_Context] = []     # pop and append are atomic
        self._made = [(v.shape, v.storage.dtype) for v in self.outputs]

    def _add_output_copies(self, builder: PlanBuilder) -> None:
        # An output that is an input, a parameter, a constant, or listed twice, is copied out.
        from cnnext.layers.elementwise import copy_view

        seen: set[Storage] = set()
        for i, view in enumerate(self.outputs):
            if view.storage.kind != "output" or view.storage in seen:
                value = self.graph.outputs[i]
                target = View.dense(Storage("output", view.size, view.storage.dtype), view.shape)
                builder._node_name = f"{value.name} (output)"
                copy_view(builder, view, target)
                self.outputs[i] = target
            seen.add(self.outputs[i].storage)

    def _number_storages(self) -> list[Storage]:
        storages: dict[Storage, None] = {}
        for view in self.inputs:
            storages.setdefault(view.storage)
        for view in self.outputs:
            storages.setdefault(view.storage)
        for step in (*self._prologue, *self.steps):
            for view in (*step.src, *step.dst):
                storages.setdefault(view.storage)
        slot = 1  # slot 0 is the arena
        for storage in storages:
            if storage.kind != "arena":
                storage.slot = slot
                slot += 1
        self._n_slots = slot
        return list(storages)

    def program(self, steps: Sequence[Step], buffers: Mapping[Storage, np.ndarray] | None = None) -> Any:
        """Steps as an executor's program, with all that is fixed bound, and ``buffers`` in place of it where given."""
        program = executor.Program(
            [_described(s) if s.bands is None else _described_bands(s, s.bands) for s in steps],
            self._n_slots, self.level, max((s.scratch_bytes for s in steps), default=0), array_at,
        )
        for storage in dict.fromkeys(v.storage for s in steps for v in (*s.src, *s.dst)):
            array = (buffers or {}).get(storage, storage.array)
            if array is None and storage.parameter is not None:
                array = storage.parameter.data
            if array is not None:
                program.bind(storage.slot, array)
        return program

    def prepare(self, n_threads: int = 1) -> None:
        """Compute what depends on parameters and constants alone (packed weights), unless it is up to date."""
        changes = Parameter.changes
        if changes == self._changes:
            return
        versions = [p.version for p in self._parameters]
        with self._lock:
            if versions == self._versions:
                self._changes = changes
                return
            run_rounds(self, self._rounds, n_threads)
            self._versions, self._changes = versions, changes

    def run(self, inputs: Sequence[np.ndarray], n_threads: int = 1,
            outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Run once.

        Parameters
        ----------
        inputs : list of ndarray
            C-contiguous, of the plan's shapes and dtypes.
        n_threads : int
            Workers; the result does not depend on it.
        outputs : list of ndarray, optional
            C-contiguous arrays to write into; new ones by default.
        """
        if self._changes != Parameter.changes:
            self.prepare(n_threads)
        guarded = self.guard and outputs is None
        if outputs is None:
            new = guarded_empty if guarded else np.empty
            outputs = [new(shape, dtype) for shape, dtype in self._made]
        try:
            context = self._idle.pop()
        except IndexError:
            context = _Context(self)
        try:
            context.run(inputs, outputs, n_threads if self.parallel else 1)
        finally:
            self._idle.append(context)
        if guarded:
            self._check_output_guards(outputs)
        return list(outputs)

    def _check_output_guards(self, outputs: Sequence[np.ndarray]) -> None:
        for value, view, array in zip(self.graph.outputs, self.outputs, outputs, strict=True):
            if zones_harmed(array):
                writers = [s.title for s in self.steps if any(v.storage is view.storage for v in s.dst)]
                raise KernelError(f"a kernel wrote outside the output {value.name}, the result of {', '.join(writers)}.")

    def trim(self) -> None:
        """Give the arenas of idle contexts back."""
        self._idle.clear()

    def explain(self) -> str:
        """The steps as a table: what runs, which kernel and why, tiles, bytes moved, where its result lies."""
        from cnnext.graph.explain import explain

        return explain(self)

    def profile(self, inputs: Sequence[np.ndarray] | None = None, n_threads: int = 1, runs: int = 20) -> Profile:
        """What each step takes: a table when printed, and a Chrome trace (``save_trace``).

        Parameters
        ----------
        inputs : list of ndarray, optional
            Random numbers by default.
        n_threads : int
        runs : int
            Of which each step's fastest counts.
        """
        from cnnext.graph.profile import profile

        return profile(self, inputs, n_threads, runs)

    def timed(self, inputs: Sequence[np.ndarray], n_threads: int, runs: int) -> np.ndarray:
        """Seconds of each step's fastest run."""
        self.prepare(n_threads)
        context = _Context(self)
        context.program.profile(True)
        outputs = [np.empty(v.shape, v.storage.dtype) for v in self.outputs]
        seconds = np.full(len(self.steps), np.inf)
        for _ in range(max(runs, 1)):
            context.run(inputs, outputs, n_threads)
            seconds = np.minimum(seconds, context.program.seconds())
        return seconds


class _Context:
    """An arena and a program bound to it: what one run at a time needs."""

    def __init__(self, plan: Plan):
        self.arena = aligned_bytes(plan.arena_bytes)
        self.guarded = [s for s in plan._storages if s.kind == "arena"] if plan.guard else []
        self.steps = plan.steps
        self.program = plan.program(plan.steps)
        self.program.bind(0, self.arena, True)
        self.inputs = [v.storage.slot for v in plan.inputs]
        self.outputs = [v.storage.slot for v in plan.outputs]

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], n_threads: int) -> None:
        if self.guarded:
            self.arena[...] = GUARD
            self.program.guard_scratch(n_threads)
        self.program.run_with(self.inputs, inputs, self.outputs, outputs, n_threads)
        if self.guarded:
            self.check_guards()

    def check_guards(self) -> None:
        """Raise if a step wrote outside the memory of its results or of its scratch."""
        if self.program.scratch_harmed():
            raise KernelError("a kernel wrote beyond its scratch.")
        for storage in self.guarded:
            zones = self.arena[storage.offset_bytes - GUARD_BYTES : storage.offset_bytes + storage.n_bytes + GUARD_BYTES]
            inside = (GUARD_BYTES, GUARD_BYTES + storage.n_bytes)
            if harmed(zones, [inside]):
                writers = [s.title for s in self.steps if any(v.storage is storage for v in s.dst)]
                raise KernelError(f"a kernel wrote outside a value of {storage.size} elements, the result of "
                                  f"{', '.join(writers)}.")


def _described(step: Step, outside: Sequence[BandStorage] = ()) -> tuple[Any, ...]:
    """A step as the executor wants it."""
    return (step.title, step.entry, [_describe(v, outside) for v in step.src], [_describe(v, outside) for v in step.dst],
            step.params, step.tiles)


def _described_bands(step: Step, bands: Bands) -> tuple[Any, ...]:
    moving = bands.outside
    calls = executor.Bands(
        [[_described(part, moving) for part in parts] for parts in bands.variants], bands.variant_of,
        [[s.offsets[i] * s.dtype.itemsize for s in moving] for i in range(len(bands.variant_of))],
        [s.image_step * s.dtype.itemsize for s in moving], bands.scratch_bytes, bands.zones)
    return step.title, calls, [], [], b"", step.tiles


def _describe(view: View, outside: Sequence[BandStorage] = ()) -> tuple[Any, ...]:
    """Slot, offset, element type, shape, strides; and for a band which of the values outside its rows are from."""
    storage, offset, mover = view.storage, view.offset, executor.AT_REST
    if isinstance(storage, BandStorage):
        mover = outside.index(storage)
        offset += storage.host.offset
        storage = storage.host.storage
    elif storage.kind == "scratch":     # of no buffer that is bound
        mover = executor.IN_SCRATCH
    offset_bytes = offset * storage.dtype.itemsize + (storage.offset_bytes if storage.kind in ("arena", "scratch") else 0)
    slot = -1 if mover == executor.IN_SCRATCH else storage.slot
    return slot, offset_bytes, dtype_code(storage.dtype), view.shape, view.strides, mover


def array_at(buffer: Any, offset_bytes: int, dtype: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """The NumPy array that a Python step sees: a strided window into a buffer, no copy."""
    kind = DTYPES[dtype]
    if 0 in shape:
        return np.empty(shape, kind)
    return np.ndarray(shape, kind, np.frombuffer(buffer, np.uint8), offset_bytes, [s * kind.itemsize for s in strides])


def no_epilogue(node: Node) -> Epilogue:
    """The node's epilogue, or one that does nothing."""
    return node.epilogue or Epilogue()
