"""Activations: functions of one element, PReLU, softmax, dropout.

Design
    Memory-bound: one pass over rows, all arithmetic in the row primitives. PReLU and softmax need a pixel's channels
    together, so their tiles are whole rows; those at one distance go to a primitive in one call. Dropout stores no mask:
    whether an element is kept is a hash of the run's seed and of its own number, so forward and backward find the same
    mask on any number of threads, for any tiles and strides.
"""
from libc.math cimport ldexp
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_tensor, cnx_worker

include "table.pxi"
include "rows.pxi"


cdef struct unary_params:
    int64_t rows, chunk
    int64_t op
    double first, second            # the function's constants


cdef int unary(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = op(src[0])
    cdef const unary_params *p = <const unary_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef row_range r = tile_rows(dst, <const rows_params *>p, worker.tile)
    cdef float[2] constants = [<float>p.first, <float>p.second]
    cdef int64_t row = r.first_row, rows
    while row < r.last_row:
        rows = rows_alike(dst, row, r.last_row)
        worker.simd.unary_rows(<int32_t>p.op, row_at(&args.src[0], row, r.first), row_step(&args.src[0]),
                               row_at(dst, row, r.first), row_step(dst), rows, r.count, constants)
        row += rows
    return CNX_OK


cdef int unary_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # diff_src = diff_dst * op'(saved); src[0] saved, src[1] diff_dst
    cdef const unary_params *p = <const unary_params *>args.params
    cdef const cnx_tensor *diff_src = &args.dst[0]
    cdef row_range r = tile_rows(diff_src, <const rows_params *>p, worker.tile)
    cdef float[2] constants = [<float>p.first, <float>p.second]
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        worker.simd.unary_backward(<int32_t>p.op, row_at(&args.src[0], row, r.first),
                                   row_at(&args.src[1], row, r.first), row_at(diff_src, row, r.first), r.count,
                                   constants)
    return CNX_OK


cdef int prelu(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = src[0] > 0 ? src[0] : src[1] * src[0]; src[1] the slope, the same at every pixel
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef row_range r = tile_rows(dst, <const rows_params *>args.params, worker.tile)
    cdef int64_t row = r.first_row, rows
    while row < r.last_row:
        rows = rows_alike(dst, row, r.last_row)
        worker.simd.prelu_rows(row_at(&args.src[0], row, r.first), row_step(&args.src[0]),
                               row_at(&args.src[1], row, r.first), row_step(&args.src[1]),
                               row_at(dst, row, r.first), row_step(dst), rows, r.count)
        row += rows
    return CNX_OK


cdef struct prelu_backward_params:
    int64_t shards


cdef int prelu_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] slope, src[2] diff_dst; dst[0] diff_src, dst[1] (shards, C): one tile is one shard of the
    # pixels. Both overwritten. The sums grow in scratch: shards of few channels share a cache line.
    cdef const prelu_backward_params *p = <const prelu_backward_params *>args.params
    cdef const cnx_tensor *diff_src = &args.dst[0]
    cdef int64_t channels = diff_src.shape[diff_src.rank - 1], total = n_rows(diff_src), row
    cdef float *diff_slope = <float *>worker.scratch
    memset(diff_slope, 0, channels * sizeof(float))
    for row in range(worker.tile * total // p.shards, (worker.tile + 1) * total // p.shards):
        worker.simd.prelu_backward(row_at(&args.src[0], row, 0), row_at(&args.src[1], row, 0),
                                   row_at(&args.src[2], row, 0), row_at(diff_src, row, 0), diff_slope, channels)
    memcpy(<float *>args.dst[1].data + worker.tile * args.dst[1].stride[0], diff_slope, channels * sizeof(float))
    return CNX_OK


ctypedef void (*rows_fn)(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n) noexcept nogil
ctypedef void (*row_backward_fn)(const float *y, const float *dy, float *dx, int64_t n) noexcept nogil


cdef inline int for_rows(const cnx_args *args, cnx_worker *worker, rows_fn function) noexcept nogil:
    cdef row_range r = tile_rows(&args.dst[0], <const rows_params *>args.params, worker.tile)
    cdef int64_t row = r.first_row, rows
    while row < r.last_row:
        rows = rows_alike(&args.dst[0], row, r.last_row)
        function(row_at(&args.src[0], row, 0), row_step(&args.src[0]), row_at(&args.dst[0], row, 0),
                 row_step(&args.dst[0]), rows, r.count)
        row += rows
    return CNX_OK


cdef inline int for_rows_backward(const cnx_args *args, cnx_worker *worker, row_backward_fn function) noexcept nogil:
    cdef row_range r = tile_rows(&args.dst[0], <const rows_params *>args.params, worker.tile)
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        function(row_at(&args.src[0], row, 0), row_at(&args.src[1], row, 0), row_at(&args.dst[0], row, 0), r.count)
    return CNX_OK


cdef int softmax(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    return for_rows(args, worker, worker.simd.softmax_rows)


cdef int log_softmax(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    return for_rows(args, worker, worker.simd.log_softmax_rows)


cdef int softmax_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] the result of the forward pass, src[1] diff_dst
    return for_rows_backward(args, worker, worker.simd.softmax_backward)


cdef int log_softmax_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    return for_rows_backward(args, worker, worker.simd.log_softmax_backward)


cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15       # 2^64 over the golden ratio, odd


cdef inline uint64_t mix(uint64_t z) noexcept nogil:
    # the finalizer of SplitMix64 (Steele, Lea, Flood 2014, with the constants of Stafford's mix 13)
    z = (z ^ (z >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    z = (z ^ (z >> 27)) * <uint64_t>0x94d049bb133111eb
    return z ^ (z >> 31)


cdef inline float zero_if(bint condition, float x) noexcept nogil:
    # in its bits, because a branch on a random number is mispredicted half of the time
    cdef uint32_t bits
    memcpy(&bits, &x, sizeof(bits))
    bits &= <uint32_t>condition - 1
    memcpy(&x, &bits, sizeof(x))
    return x


cdef struct dropout_params:
    int64_t rows, chunk
    int64_t stream                  # tells the dropout layers of a graph apart
    double rate


cdef int dropout(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = src[0] / (1 - rate) where the element is kept, else 0; src[1] the run's seed.
    # Element i, counted in C order of the value's shape, has the i-th number of a SplitMix64 generator; it is kept if
    # the number's upper half, as a fraction of 2^32, is not below the rate.
    cdef const dropout_params *p = <const dropout_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef row_range r = tile_rows(dst, <const rows_params *>p, worker.tile)
    cdef uint64_t seed = (<const uint64_t *>args.src[1].data)[0]
    cdef uint64_t key = mix(seed + GOLDEN * mix(<uint64_t>p.stream))
    cdef uint64_t limit = <uint64_t>ldexp(p.rate, 32), state
    cdef float scale = <float>(1 / (1 - p.rate))
    cdef int64_t row, i
    cdef const float *from_
    cdef float *to
    for row in range(r.first_row, r.last_row):
        from_ = row_at(&args.src[0], row, r.first)
        to = row_at(dst, row, r.first)
        state = key + GOLDEN * <uint64_t>(row * dst.shape[dst.rank - 1] + r.first)
        for i in range(r.count):
            state += GOLDEN
            to[i] = zero_if(mix(state) >> 32 < limit, scale * from_[i])
    return CNX_OK


cdef unary_params unary_zero
cdef rows_params rows_zero
cdef prelu_backward_params prelu_backward_zero
cdef dropout_params dropout_zero

KERNELS = {
    "unary": kernel("unary", unary),
    "unary_backward": kernel("unary_backward", unary_backward),
    "prelu": kernel("prelu", prelu),
    "prelu_backward": kernel("prelu_backward", prelu_backward),
    "softmax": kernel("softmax", softmax),
    "softmax_backward": kernel("softmax_backward", softmax_backward),
    "log_softmax": kernel("log_softmax", log_softmax),
    "log_softmax_backward": kernel("log_softmax_backward", log_softmax_backward),
    "dropout": kernel("dropout", dropout),
}
PARAMS = {
    "unary": fields(unary_zero),
    "unary_backward": fields(unary_zero),
    "prelu": fields(rows_zero),
    "prelu_backward": fields(prelu_backward_zero),
    "softmax": fields(rows_zero),
    "softmax_backward": fields(rows_zero),
    "log_softmax": fields(rows_zero),
    "log_softmax_backward": fields(rows_zero),
    "dropout": fields(dropout_zero),
}
