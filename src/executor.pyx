"""The plan runner: walks a list of kernel calls with all workers inside one parallel region.

Design
    A program is an array of steps; a step is one kernel, its tensors, and a number of tiles. Every worker walks all the
    steps and takes tiles from the step's atomic counter until none is left. A step is over when all its tiles are finished,
    not when all workers have arrived: a worker that the system has put aside holds nobody up unless it is in the middle of
    a tile, and skips what others have done when it comes back (an OpenMP barrier in its place cost a time slice per step
    on busy cores). One region per run saves 0.8 us a step. Tiles are cut by the plan, from shapes alone, so which worker
    computes a tile never changes a bit of the result.
    A chain is a step of several kernels. Its tile is a band: some rows of one image. The worker that takes it makes all
    kernel calls of that band; tensors between them lie in its scratch, those outside move on from band to band and from
    image to image. Calls are kept once for bands that look alike.
    Steps that are Python callables (NumPy-level plugins) split the program: the region ends, the callable runs with the
    GIL, a new region begins.
    Addresses are bound once per buffer: a tensor knows its slot (arena, constant, input, output) and its offset in it.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cython.parallel cimport parallel, threadid
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from cnnext.plugin cimport (CNX_ABI, CNX_BINARY_COUNT, CNX_ERROR_FAILED, CNX_ERROR_LABEL, CNX_KERNEL_CAPSULE, CNX_MAX_RANK,
                            CNX_OK, CNX_UNARY_COUNT, cnx_args, cnx_kernel, cnx_kernel_fn, cnx_simd, cnx_tensor, cnx_worker)

from struct import pack

from cnnext.errors import KernelError

cdef extern from "threads.h" nogil:
    int cnx_team_size() noexcept
    int cnx_max_threads() noexcept
    int64_t cnx_take(int64_t *counter) noexcept
    void cnx_finish(int64_t *counter) noexcept
    void cnx_wait_for(const int64_t *counter, int64_t number) noexcept
    void cnx_lower(int64_t *slot, int64_t value) noexcept
    int64_t cnx_read(const int64_t *slot) noexcept
    double cnx_seconds() noexcept
    int cnx_single_thread_only
    void cnx_enter_run() noexcept
    void cnx_leave_run() noexcept
    void cnx_before_fork() noexcept
    void cnx_after_fork() noexcept
    void cnx_guard_forks() noexcept

cdef extern from *:
    """
    #include <stdlib.h>
    static inline void *cnx_aligned(size_t bytes)
    {
        void *p = NULL;
        return posix_memalign(&p, 64, bytes ? bytes : 64) ? NULL : p;
    }
    """
    void *cnx_aligned(size_t n_bytes) noexcept nogil
    const bint CNX_OPENMP

cdef extern from "simd/dispatch.h" nogil:
    const cnx_simd *cnx_simd_select(const char *name) noexcept
    int cnx_simd_levels(const cnx_simd **out) noexcept
    const char *cnx_unary_name(int op) noexcept
    int cnx_unary_saves_output(int op) noexcept
    const char *cnx_binary_name(int op) noexcept

OPENMP = bool(CNX_OPENMP)
UNARY = {(<bytes>cnx_unary_name(op)).decode(): op for op in range(CNX_UNARY_COUNT)}
UNARY_SAVES_OUTPUT = {name: bool(cnx_unary_saves_output(op)) for name, op in UNARY.items()}
BINARY = {(<bytes>cnx_binary_name(op)).decode(): op for op in range(CNX_BINARY_COUNT)}


CODES = {CNX_ERROR_LABEL: "a class label lies outside [0, classes)", CNX_ERROR_FAILED: "the kernel failed",
         HARMED: "the kernel wrote outside its result"}
AT_REST, IN_SCRATCH = REST, SCRATCH     # where the tensor of a band lies if it is none of those that move

cdef enum:
    HARMED = -1             # found by the executor, in guarded memory
    REST = -1
    SCRATCH = -2
    COUNTER_STRIDE = 16     # two cache lines per step: tiles taken, tiles finished
    TAKEN = 0
    FINISHED = 8
    NO_STEP = 0x7fffffff
    LATEST = 0x7fffffffffffffff
    SCRATCH_SLACK = 4096 + 64   # between two workers' scratch: no shared cache line or set, and the guard zone of tests


cdef struct call_t:
    cnx_kernel_fn run
    cnx_args args
    int64_t n_tiles
    int64_t first_tensor


cdef struct bands_t:
    int64_t n_bands                 # of an image
    const int64_t *variant_of       # of each band
    const int64_t *first_call       # of each variant, in the program's calls
    int64_t n_outside
    const int64_t *offset           # by band and tensor outside, in bytes
    const int64_t *image_step       # by tensor outside
    int64_t scratch_bytes           # of the tensors in between
    const int64_t *first_zone       # of each variant
    const int64_t *zones            # first and last byte of scratch that must stay as it is


cdef struct step_t:
    call_t call
    bands_t *bands                  # NULL, or of a chain


cdef struct program_t:
    step_t *steps
    call_t *calls           # of chains
    const cnx_tensor *tensors
    const int32_t *mover    # REST, SCRATCH, or which of the chain's tensors outside
    const int64_t *tensor_offset
    int64_t frame_bytes     # for the tensors of one call, before each worker's scratch
    int64_t *counters
    const cnx_simd *simd
    char *scratch
    int64_t scratch_bytes
    int64_t failed_step
    int64_t failed_call     # of a chain
    int64_t failed_code
    int64_t *clock          # NULL, or nanoseconds when the first worker began each step, and when the first had left it


cdef bint is_harmed(const bands_t *bands, int64_t variant, const unsigned char *scratch) noexcept nogil:
    cdef int64_t z, i
    for z in range(bands.first_zone[variant], bands.first_zone[variant + 1]):
        for i in range(bands.zones[2 * z], bands.zones[2 * z + 1]):
            if scratch[i] != 0xff:
                return True
    return False


cdef int run_band(program_t *program, const bands_t *bands, cnx_worker *worker) noexcept nogil:
    cdef int64_t image = worker.tile // bands.n_bands, band = worker.tile % bands.n_bands
    cdef int64_t variant = bands.variant_of[band], c, code
    cdef bint guarded = bands.first_zone[variant + 1] > bands.first_zone[variant]
    cdef cnx_worker inner = worker[0]
    inner.scratch = <char *>worker.scratch + bands.scratch_bytes
    inner.scratch_bytes = worker.scratch_bytes - bands.scratch_bytes
    if guarded:
        memset(worker.scratch, 0xff, bands.scratch_bytes)
    for c in range(bands.first_call[variant], bands.first_call[variant + 1]):
        code = run_call(program, bands, &program.calls[c], image, band, <char *>worker.scratch, &inner)
        if code == CNX_OK and guarded and is_harmed(bands, variant, <unsigned char *>worker.scratch):
            code = HARMED
        if code != CNX_OK:
            cnx_lower(&program.failed_call, c)
            return code
    return CNX_OK


cdef int run_call(program_t *program, const bands_t *bands, const call_t *call, int64_t image, int64_t band,
                  char *scratch, cnx_worker *worker) noexcept nogil:
    cdef cnx_tensor *tensors = <cnx_tensor *>(scratch - program.frame_bytes)
    cdef cnx_args args = call.args
    cdef int64_t n = args.n_src + args.n_dst, i, mover
    cdef int code
    memcpy(tensors, program.tensors + call.first_tensor, n * sizeof(cnx_tensor))
    for i in range(n):
        mover = program.mover[call.first_tensor + i]
        if mover == SCRATCH:
            tensors[i].data = scratch + program.tensor_offset[call.first_tensor + i]
        elif mover != REST:
            tensors[i].data = (<char *>tensors[i].data + bands.offset[band * bands.n_outside + mover]
                               + image * bands.image_step[mover])
    args.src = tensors
    args.dst = tensors + args.n_src
    for i in range(call.n_tiles):
        worker.tile = i
        code = call.run(&args, worker)
        if code != CNX_OK:
            return code
    return CNX_OK


cdef void run_tiles(program_t *program, int64_t index, cnx_worker *worker, bint alone) noexcept nogil:
    cdef step_t *step = &program.steps[index]
    cdef int64_t *counters = &program.counters[index * COUNTER_STRIDE]
    cdef int64_t tile = 0
    cdef int code
    while True:
        if not alone:
            tile = cnx_take(&counters[TAKEN])
        if tile >= step.call.n_tiles:
            return
        if cnx_read(&program.failed_step) > index:      # else a tile counts as done without being computed
            worker.tile = tile
            if step.bands == NULL:
                code = step.call.run(&step.call.args, worker)
            else:
                code = run_band(program, step.bands, worker)
            if code != CNX_OK:
                program.failed_code = code
                cnx_lower(&program.failed_step, index)
        if not alone:
            cnx_finish(&counters[FINISHED])
        tile += 1


cdef int64_t nanoseconds() noexcept nogil:
    return <int64_t>(1e9 * cnx_seconds())


cdef void walk(program_t *program, int64_t first, int64_t last, int index, int count) noexcept nogil:
    cdef cnx_worker worker
    cdef int64_t s, now = 0
    memset(&worker, 0, sizeof(worker))
    worker.abi = CNX_ABI
    worker.size = sizeof(worker)
    worker.index = index
    worker.count = count
    worker.scratch = program.scratch + index * program.scratch_bytes + program.frame_bytes
    worker.scratch_bytes = program.scratch_bytes - program.frame_bytes
    worker.simd = program.simd
    if program.clock != NULL:
        now = nanoseconds()
    for s in range(first, last):
        if program.clock != NULL:
            cnx_lower(&program.clock[2 * s], now)
        run_tiles(program, s, &worker, count == 1)
        if count > 1:
            cnx_wait_for(&program.counters[s * COUNTER_STRIDE + FINISHED], program.steps[s].call.n_tiles)
        if cnx_read(&program.failed_step) <= s:
            return
        if program.clock != NULL:
            now = nanoseconds()
            cnx_lower(&program.clock[2 * s + 1], now)


cdef void walk_parallel(program_t *program, int64_t first, int64_t last, int n_threads) noexcept nogil:
    if program.clock != NULL:       # calling the workers belongs to the first step
        cnx_lower(&program.clock[2 * first], nanoseconds())
    if n_threads <= 1:
        walk(program, first, last, 0, 1)
        return
    with parallel(num_threads=n_threads):
        walk(program, first, last, threadid(), cnx_team_size())


class Bands:
    """What a chain does instead of one kernel call.

    Parameters
    ----------
    variants : list of lists of steps, as those of ``Program``
        The calls of one band. Their tensors have a sixth item: ``AT_REST``, ``IN_SCRATCH``, or which of those that move.
    variant_of : list of int
        For each band of an image.
    offsets : list of lists of int
        For each band: how many bytes further each of the moving tensors lies.
    image_steps : list of int
        Bytes of each moving tensor from image to image.
    scratch_bytes : int
        Of the tensors in scratch.
    zones : list of lists of (first, last)
        For each variant: bytes of the scratch that are to be checked.
    """

    def __init__(self, variants, variant_of, offsets, image_steps, scratch_bytes, zones):
        self.variants, self.variant_of, self.offsets, self.image_steps = variants, variant_of, offsets, image_steps
        self.scratch_bytes, self.zones = scratch_bytes, zones


cdef class Program:
    """Steps bound to buffers, ready to run any number of times; one run at a time.

    Parameters
    ----------
    steps : list of tuples ``(name, kernel, src, dst, params, n_tiles)``
        ``kernel`` is a capsule ``cnnext.kernel.v1``, ``Bands``, or a Python callable ``f(src_arrays, dst_arrays)``; ``src``
        and ``dst`` are lists of ``(slot, offset_bytes, dtype, shape, strides, mover)``; ``params`` is bytes.
    n_slots : int
        How many buffers the tensors lie in.
    level : str
        The instruction-set level whose tile primitives the kernels get.
    scratch_bytes : int
        What the hungriest step needs for each worker.
    make_array : callable
        ``make_array(buffer, offset_bytes, dtype, shape, strides)``: the array that a Python step sees.
    """
    cdef program_t program
    cdef cnx_tensor *tensors
    cdef int64_t *tensor_offset
    cdef int32_t *tensor_slot
    cdef int32_t *slot_first        # tensors of a slot: slot_tensors[slot_first[slot]] to [slot_first[slot + 1]]
    cdef int32_t *slot_tensors
    cdef int32_t *mover
    cdef bands_t *bands
    cdef int64_t n_steps, n_tensors, n_filled
    cdef list steps, buffers, segments, titles, tables
    cdef object make_array
    cdef int scratch_workers

    def __cinit__(self):
        memset(&self.program, 0, sizeof(program_t))
        self.tensors = NULL
        self.tensor_offset = NULL
        self.tensor_slot = NULL
        self.mover = NULL
        self.bands = NULL
        self.slot_first = NULL
        self.slot_tensors = NULL

    def __init__(self, list steps, int n_slots, str level, int64_t scratch_bytes, make_array):
        chains = [step[1] for step in steps if isinstance(step[1], Bands)]
        calls = [call for chain in chains for calls in chain.variants for call in calls]
        self.steps = steps
        self.buffers = [None] * n_slots
        self.make_array = make_array
        self.titles = [call[0] for call in calls]
        self.tables = []
        self.n_steps = len(steps)
        self.n_filled = 0
        self.n_tensors = sum(len(step[2]) + len(step[3]) for step in steps + calls)
        self._allocate(len(calls), len(chains), n_slots)
        encoded = level.encode()
        self.program.simd = cnx_simd_select(encoded)
        if self.program.simd == NULL:
            raise ValueError(f"this machine has no instruction-set level {level!r}")
        most = max([len(call[2]) + len(call[3]) for call in calls], default=0)
        self.program.frame_bytes = (most * sizeof(cnx_tensor) + 63) // 64 * 64
        self.program.scratch_bytes = (scratch_bytes + 63) // 64 * 64 + self.program.frame_bytes + SCRATCH_SLACK
        self.scratch_workers = 0
        self._fill_steps()
        self._sort_tensors(n_slots)

    cdef _allocate(self, int64_t n_calls, int64_t n_chains, int64_t n_slots):
        self.program.steps = <step_t *>calloc(max(self.n_steps, 1), sizeof(step_t))
        self.program.calls = <call_t *>calloc(max(n_calls, 1), sizeof(call_t))
        self.program.counters = <int64_t *>cnx_aligned(max(self.n_steps, 1) * COUNTER_STRIDE * sizeof(int64_t))
        self.tensors = <cnx_tensor *>calloc(max(self.n_tensors, 1), sizeof(cnx_tensor))
        self.tensor_offset = <int64_t *>calloc(max(self.n_tensors, 1), sizeof(int64_t))
        self.tensor_slot = <int32_t *>calloc(max(self.n_tensors, 1), sizeof(int32_t))
        self.mover = <int32_t *>calloc(max(self.n_tensors, 1), sizeof(int32_t))
        self.bands = <bands_t *>calloc(max(n_chains, 1), sizeof(bands_t))
        self.slot_first = <int32_t *>calloc(n_slots + 1, sizeof(int32_t))
        self.slot_tensors = <int32_t *>calloc(max(self.n_tensors, 1), sizeof(int32_t))
        if (self.program.steps == NULL or self.program.calls == NULL or self.program.counters == NULL
                or self.tensors == NULL or self.tensor_offset == NULL or self.tensor_slot == NULL or self.mover == NULL
                or self.bands == NULL or self.slot_first == NULL or self.slot_tensors == NULL):
            raise MemoryError("no memory for the plan's steps")
        self.program.tensors = self.tensors
        self.program.tensor_offset = self.tensor_offset
        self.program.mover = self.mover

    def __dealloc__(self):
        free(self.program.steps)
        free(self.program.calls)
        free(self.program.counters)
        free(self.program.scratch)
        free(self.program.clock)
        free(self.tensors)
        free(self.tensor_offset)
        free(self.tensor_slot)
        free(self.mover)
        free(self.bands)
        free(self.slot_first)
        free(self.slot_tensors)

    cdef _fill_steps(self):
        cdef int64_t s, segment_start = 0, first_call = 0, n_chains = 0
        self.segments = []
        for s, step in enumerate(self.steps):
            self._fill_call(&self.program.steps[s].call, step)
            if isinstance(step[1], Bands):
                self.program.steps[s].bands = &self.bands[n_chains]
                first_call = self._fill_bands(&self.bands[n_chains], step[1], first_call)
                n_chains += 1
            elif callable(step[1]):
                self.segments.append((segment_start, s, s))
                segment_start = s + 1
        self.segments.append((segment_start, self.n_steps, -1))

    cdef _fill_call(self, call_t *call, step):
        name, kernel, src, dst, params, n_tiles = step
        call.args.abi = CNX_ABI
        call.args.size = sizeof(cnx_args)
        call.args.n_src = len(src)
        call.args.n_dst = len(dst)
        call.args.src = &self.tensors[self.n_filled]
        call.args.dst = &self.tensors[self.n_filled + len(src)]
        call.args.params = PyBytes_AS_STRING(params)
        call.args.params_bytes = PyBytes_GET_SIZE(params)
        call.args.n_tiles = call.n_tiles = n_tiles
        call.first_tensor = self.n_filled
        for tensor in src + dst:
            self._fill_tensor(self.n_filled, tensor)
            self.n_filled += 1
        if PyCapsule_IsValid(kernel, CNX_KERNEL_CAPSULE):
            call.run = self._entry(name, kernel)

    cdef int64_t _fill_bands(self, bands_t *bands, chain, int64_t first_call) except -1:
        # its calls stand in the program's from first_call on; returns where the next chain's do
        firsts, zone_firsts, n_zones = [first_call], [0], 0
        for calls, zones in zip(chain.variants, chain.zones):
            for call in calls:
                self._fill_call(&self.program.calls[first_call], call)
                first_call += 1
            firsts.append(first_call)
            n_zones += len(zones)
            zone_firsts.append(n_zones)
        bands.n_bands = len(chain.variant_of)
        bands.variant_of = self._table(chain.variant_of)
        bands.first_call = self._table(firsts)
        bands.n_outside = len(chain.image_steps)
        bands.offset = self._table([offset for offsets in chain.offsets for offset in offsets])
        bands.image_step = self._table(chain.image_steps)
        bands.scratch_bytes = chain.scratch_bytes
        bands.first_zone = self._table(zone_firsts)
        bands.zones = self._table([byte for zones in chain.zones for zone in zones for byte in zone])
        return first_call

    cdef const int64_t *_table(self, numbers) except? NULL:
        cdef bytes table = pack(f"{len(numbers)}q", *numbers)
        self.tables.append(table)
        return <const int64_t *>PyBytes_AS_STRING(table)

    cdef _sort_tensors(self, int n_slots):
        # by their slots, so that binding a buffer touches its own tensors alone
        cdef int32_t slot, n = 0
        cdef int64_t i
        for slot in range(n_slots):
            for i in range(self.n_tensors):
                if self.tensor_slot[i] == slot:
                    self.slot_tensors[n] = <int32_t>i
                    n += 1
            self.slot_first[slot + 1] = n

    cdef cnx_kernel_fn _entry(self, name, kernel) except NULL:
        cdef const cnx_kernel *entry = <const cnx_kernel *>PyCapsule_GetPointer(kernel, CNX_KERNEL_CAPSULE)
        if entry.abi != CNX_ABI or entry.size < sizeof(cnx_kernel):
            raise KernelError(f"{name}: kernel was built for ABI {entry.abi}, this cnnext has ABI {CNX_ABI}. Rebuild it.")
        return entry.run

    cdef _fill_tensor(self, int64_t index, tensor):
        cdef cnx_tensor *t = &self.tensors[index]
        slot, offset_bytes, dtype, shape, strides, mover = tensor
        if len(shape) > CNX_MAX_RANK:
            raise ValueError(f"a tensor has at most {CNX_MAX_RANK} dimensions. Received shape={shape}.")
        t.dtype = dtype
        t.rank = len(shape)
        for i in range(t.rank):
            t.shape[i] = shape[i]
            t.stride[i] = strides[i]
        self.tensor_slot[index] = slot
        self.tensor_offset[index] = offset_bytes
        self.mover[index] = mover

    cpdef bind(self, int slot, buffer, bint writable=False):
        """Let the tensors of a slot lie in ``buffer`` (C contiguous), which stays referenced until the next bind."""
        cdef Py_buffer view
        cdef int32_t i, tensor
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        for i in range(self.slot_first[slot], self.slot_first[slot + 1]):
            tensor = self.slot_tensors[i]
            self.tensors[tensor].data = <char *>view.buf + self.tensor_offset[tensor]
        PyBuffer_Release(&view)
        self.buffers[slot] = buffer

    def profile(self, bint on=True):
        """Measure the seconds of each step in the runs that follow; read them with ``seconds()``."""
        free(self.program.clock)
        self.program.clock = NULL
        if on:
            self.program.clock = <int64_t *>calloc(max(2 * self.n_steps, 1), sizeof(int64_t))

    def seconds(self):
        """Seconds of each step in the last run, from the first worker that began it to the first that found it finished.

        Whoever is put aside meanwhile changes nothing. 0 for steps in Python.
        """
        if self.program.clock == NULL:
            return []
        return [1e-9 * max(self.program.clock[2 * s + 1] - self.program.clock[2 * s], 0) for s in range(self.n_steps)]

    cdef int _need_scratch(self, int workers) except -1:
        if workers > self.scratch_workers:
            free(self.program.scratch)
            self.scratch_workers = 0
            self.program.scratch = <char *>cnx_aligned(workers * self.program.scratch_bytes)
            if self.program.scratch == NULL:
                raise MemoryError(f"no memory for {workers * self.program.scratch_bytes} bytes of scratch")
            self.scratch_workers = workers
        return 0

    def guard_scratch(self, int workers):
        """Fill all scratch with 0xff, so that ``scratch_harmed`` can tell whether a kernel overran its own."""
        self._need_scratch(workers)
        memset(self.program.scratch, 0xff, self.scratch_workers * self.program.scratch_bytes)

    def scratch_harmed(self):
        """Whether the last ``SCRATCH_SLACK`` bytes of a worker's scratch were written since ``guard_scratch``."""
        cdef int64_t w, i
        for w in range(self.scratch_workers):
            for i in range(self.program.scratch_bytes - SCRATCH_SLACK, self.program.scratch_bytes):
                if (<unsigned char *>self.program.scratch)[w * self.program.scratch_bytes + i] != 0xff:
                    return True
        return False

    def run_with(self, list sources, inputs, list targets, outputs, int n_threads):
        """``run`` with arrays bound to the slots ``sources`` and ``targets``, which are let go of afterwards.

        ``inputs`` and ``outputs`` have an array (C contiguous, ``outputs`` writable) for each.
        """
        cdef Py_ssize_t i, n_sources = len(sources), n_targets = len(targets)
        if len(inputs) != n_sources or len(outputs) != n_targets:
            raise ValueError(f"a program of {n_sources} inputs and {n_targets} outputs got {len(inputs)} and "
                             f"{len(outputs)} arrays")
        try:
            for i in range(n_sources):
                self.bind(sources[i], inputs[i])
            for i in range(n_targets):
                self.bind(targets[i], outputs[i], True)
            self.run(n_threads)
        finally:
            for i in range(n_sources):
                self.buffers[<Py_ssize_t>sources[i]] = None
            for i in range(n_targets):
                self.buffers[<Py_ssize_t>targets[i]] = None

    cpdef run(self, int n_threads=1):
        """Run all steps. Raises ``KernelError`` with the name of the step that failed."""
        cdef int64_t first, last
        if cnx_single_thread_only or n_threads < 1:
            n_threads = 1
        self._need_scratch(n_threads)
        memset(self.program.counters, 0, self.n_steps * COUNTER_STRIDE * sizeof(int64_t))
        self.program.failed_step = NO_STEP
        self.program.failed_call = NO_STEP
        self.program.failed_code = 0
        if self.program.clock != NULL:
            for first in range(2 * self.n_steps):
                self.program.clock[first] = LATEST
        for first, last, call in self.segments:
            if last > first:
                with nogil:
                    cnx_enter_run()
                    walk_parallel(&self.program, first, last, n_threads)
                    cnx_leave_run()
                if self.program.failed_step != NO_STEP:
                    self._raise()
            if call >= 0:
                self._call(call)

    cdef _call(self, int64_t s):
        _, function, src, dst, _, _ = self.steps[s]
        function([self.make_array(self.buffers[t[0]], *t[1:5]) for t in src],
                 [self.make_array(self.buffers[t[0]], *t[1:5]) for t in dst])

    cdef _raise(self):
        name = self.steps[self.program.failed_step][0]
        if self.program.failed_call != NO_STEP:
            name = self.titles[self.program.failed_call]
        reason = CODES.get(self.program.failed_code, f"the kernel returned error code {self.program.failed_code}")
        raise KernelError(f"{name}: {reason}.")


def alike(arrays, list likes, kind):
    """Whether each of ``arrays`` is a C-contiguous ``kind`` (not a subclass) of its ``(shape, dtype)`` in ``likes``.

    Data types are compared by identity: True is certain, False only means that somebody has to look.
    """
    cdef Py_ssize_t i, n = len(likes)
    if len(arrays) != n:
        return False
    for i in range(n):
        array = arrays[i]
        shape, dtype = likes[i]
        if type(array) is not kind or array.dtype is not dtype or array.shape != shape or not array.flags.c_contiguous:
            return False
    return True


def levels():
    """Names of the instruction-set levels that this machine can run, the plainest first."""
    cdef const cnx_simd *tables[8]
    return [tables[i].level.decode() for i in range(cnx_simd_levels(tables))]


def level_info(str level=None):
    """Name, vector length and GEMM tiles of a level; of the best one for None. None where this machine lacks it."""
    cdef const cnx_simd *simd
    encoded = level.encode() if level is not None else None
    simd = cnx_simd_select(NULL) if encoded is None else cnx_simd_select(encoded)
    if simd == NULL:
        return None
    return {"level": simd.level.decode(), "vl": simd.vl, "max_nv": simd.max_nv,
            "tile_rows": [simd.tile_rows[i] for i in range(simd.max_nv)]}


def fma_loop(str level, int64_t turns):
    """Operations per second of a loop of multiply-adds that stays in registers."""
    cdef const cnx_simd *simd
    cdef float dst[64]
    cdef int64_t operations
    cdef double start, seconds
    encoded = level.encode()
    simd = cnx_simd_select(encoded)
    if simd == NULL:
        raise ValueError(f"fma_loop: `level` must be one of {levels()} on this machine. Received level={level!r}.")
    with nogil:
        start = cnx_seconds()
        operations = simd.fma_loop(turns, dst)
        seconds = cnx_seconds() - start
    return operations / seconds


def max_threads():
    """What OpenMP would use now (``OMP_NUM_THREADS``, ``threadpoolctl``), or 1 without it."""
    return cnx_max_threads()


def before_fork():
    """Wait until no run is inside a parallel region, then give the workers back."""
    cnx_before_fork()


def after_fork():
    """Let runs begin again, in the parent and in the child."""
    cnx_after_fork()


cnx_guard_forks()
