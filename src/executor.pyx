"""The plan runner: walks a list of kernel calls with all workers inside one parallel region.

Design
    A program is an array of steps; a step is one kernel, its tensors, and a number of tiles. Every worker walks all the
    steps and takes tiles from the step's atomic counter until none is left. A step is over when all its tiles are finished,
    not when all workers have arrived: a worker that the system has put aside holds nobody up unless it is in the middle of
    a tile, and skips what others have done when it comes back (an OpenMP barrier in its place cost a time slice per step
    on busy cores). One region per run saves 0.8 us a step. Tiles are cut by the plan, from shapes alone, so which worker
    computes a tile never changes a bit of the result.
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
from libc.string cimport memset

from cnnext.plugin cimport (CNX_ABI, CNX_BINARY_COUNT, CNX_ERROR_FAILED, CNX_ERROR_LABEL, CNX_KERNEL_CAPSULE, CNX_MAX_RANK,
                            CNX_UNARY_COUNT, cnx_args, cnx_kernel, cnx_kernel_fn, cnx_simd, cnx_tensor, cnx_worker)

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


CODES = {CNX_ERROR_LABEL: "a class label lies outside [0, classes)", CNX_ERROR_FAILED: "the kernel failed"}

cdef enum:
    COUNTER_STRIDE = 16     # two cache lines per step: tiles taken, tiles finished
    TAKEN = 0
    FINISHED = 8
    NO_STEP = 0x7fffffff
    LATEST = 0x7fffffffffffffff
    SCRATCH_SLACK = 4096 + 64   # between two workers' scratch: no shared cache line or set, and the guard zone of tests


cdef struct step_t:
    cnx_kernel_fn run
    cnx_args args
    int64_t n_tiles


cdef struct program_t:
    step_t *steps
    int64_t *counters
    const cnx_simd *simd
    char *scratch
    int64_t scratch_bytes
    int64_t failed_step
    int64_t failed_code
    int64_t *clock          # NULL, or nanoseconds when the first worker began each step, and when the first had left it


cdef void run_tiles(program_t *program, int64_t index, cnx_worker *worker, bint alone) noexcept nogil:
    cdef step_t *step = &program.steps[index]
    cdef int64_t *counters = &program.counters[index * COUNTER_STRIDE]
    cdef int64_t tile = 0
    cdef int code
    while True:
        if not alone:
            tile = cnx_take(&counters[TAKEN])
        if tile >= step.n_tiles:
            return
        if cnx_read(&program.failed_step) > index:      # else a tile counts as done without being computed
            worker.tile = tile
            code = step.run(&step.args, worker)
            if code != 0:
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
    worker.scratch = program.scratch + index * program.scratch_bytes
    worker.scratch_bytes = program.scratch_bytes
    worker.simd = program.simd
    if program.clock != NULL:
        now = nanoseconds()
    for s in range(first, last):
        if program.clock != NULL:
            cnx_lower(&program.clock[2 * s], now)
        run_tiles(program, s, &worker, count == 1)
        if count > 1:
            cnx_wait_for(&program.counters[s * COUNTER_STRIDE + FINISHED], program.steps[s].n_tiles)
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


cdef class Program:
    """Steps bound to buffers, ready to run any number of times; one run at a time.

    Parameters
    ----------
    steps : list of tuples ``(name, kernel, src, dst, params, n_tiles)``
        ``kernel`` is a capsule ``cnnext.kernel.v1`` or a Python callable ``f(src_arrays, dst_arrays)``; ``src`` and ``dst``
        are lists of ``(slot, offset_bytes, dtype, shape, strides)``; ``params`` is bytes.
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
    cdef int64_t n_steps, n_tensors
    cdef list steps, buffers, segments, calls
    cdef object make_array
    cdef int scratch_workers

    def __cinit__(self):
        memset(&self.program, 0, sizeof(program_t))
        self.tensors = NULL
        self.tensor_offset = NULL
        self.tensor_slot = NULL
        self.slot_first = NULL
        self.slot_tensors = NULL

    def __init__(self, list steps, int n_slots, str level, int64_t scratch_bytes, make_array):
        self.steps = steps
        self.buffers = [None] * n_slots
        self.make_array = make_array
        self.n_steps = len(steps)
        self.n_tensors = sum(len(step[2]) + len(step[3]) for step in steps)
        self.program.steps = <step_t *>calloc(max(self.n_steps, 1), sizeof(step_t))
        self.program.counters = <int64_t *>cnx_aligned(max(self.n_steps, 1) * COUNTER_STRIDE * sizeof(int64_t))
        self.tensors = <cnx_tensor *>calloc(max(self.n_tensors, 1), sizeof(cnx_tensor))
        self.tensor_offset = <int64_t *>calloc(max(self.n_tensors, 1), sizeof(int64_t))
        self.tensor_slot = <int32_t *>calloc(max(self.n_tensors, 1), sizeof(int32_t))
        self.slot_first = <int32_t *>calloc(n_slots + 1, sizeof(int32_t))
        self.slot_tensors = <int32_t *>calloc(max(self.n_tensors, 1), sizeof(int32_t))
        if (self.program.steps == NULL or self.program.counters == NULL or self.tensors == NULL
                or self.tensor_offset == NULL or self.tensor_slot == NULL or self.slot_first == NULL
                or self.slot_tensors == NULL):
            raise MemoryError("no memory for the plan's steps")
        encoded = level.encode()
        self.program.simd = cnx_simd_select(encoded)
        if self.program.simd == NULL:
            raise ValueError(f"this machine has no instruction-set level {level!r}")
        self.program.scratch_bytes = (scratch_bytes + 63) // 64 * 64 + SCRATCH_SLACK
        self.scratch_workers = 0
        self._fill_steps()
        self._sort_tensors(n_slots)

    def __dealloc__(self):
        free(self.program.steps)
        free(self.program.counters)
        free(self.program.scratch)
        free(self.program.clock)
        free(self.tensors)
        free(self.tensor_offset)
        free(self.tensor_slot)
        free(self.slot_first)
        free(self.slot_tensors)

    cdef _fill_steps(self):
        cdef int64_t s, first_tensor = 0, segment_start = 0
        cdef step_t *step
        self.segments = []
        self.calls = []
        for s, (name, kernel, src, dst, params, n_tiles) in enumerate(self.steps):
            step = &self.program.steps[s]
            step.args.abi = CNX_ABI
            step.args.size = sizeof(cnx_args)
            step.args.n_src = len(src)
            step.args.n_dst = len(dst)
            step.args.src = &self.tensors[first_tensor]
            step.args.dst = &self.tensors[first_tensor + len(src)]
            step.args.params = PyBytes_AS_STRING(params)
            step.args.params_bytes = PyBytes_GET_SIZE(params)
            step.args.n_tiles = step.n_tiles = n_tiles
            for tensor in src + dst:
                self._fill_tensor(first_tensor, tensor)
                first_tensor += 1
            if PyCapsule_IsValid(kernel, CNX_KERNEL_CAPSULE):
                step.run = self._entry(name, kernel)
            else:
                self.segments.append((segment_start, s, s))
                segment_start = s + 1
        self.segments.append((segment_start, self.n_steps, -1))

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
        slot, offset_bytes, dtype, shape, strides = tensor
        if len(shape) > CNX_MAX_RANK:
            raise ValueError(f"a tensor has at most {CNX_MAX_RANK} dimensions. Received shape={shape}.")
        t.dtype = dtype
        t.rank = len(shape)
        for i in range(t.rank):
            t.shape[i] = shape[i]
            t.stride[i] = strides[i]
        self.tensor_slot[index] = slot
        self.tensor_offset[index] = offset_bytes

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
        function([self.make_array(self.buffers[t[0]], *t[1:]) for t in src],
                 [self.make_array(self.buffers[t[0]], *t[1:]) for t in dst])

    cdef _raise(self):
        name = self.steps[self.program.failed_step][0]
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
