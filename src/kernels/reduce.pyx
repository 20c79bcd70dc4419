"""Sums, products and extrema over any axes.

Design
    Memory-bound: one pass over the source, all arithmetic in the row primitives. A function of one variable may be applied
    to every element before (squares) and to every result after (the root of their sum).
    A kept last axis is a row of accumulators; a reduced one is folded onto itself in pieces, halves last. A long sum is one
    of short ones, so its error grows with the root of their number; sums along a row end in double.
"""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_IDENTITY, CNX_MULTIPLY, CNX_OK, cnx_args, cnx_simd, cnx_tensor, cnx_worker

include "table.pxi"
include "rows.pxi"

cdef enum:
    ROWS_PER_SUM = 64
    LANES = 128                     # partial results along a row


cdef struct reduce_params:
    int64_t kept                    # rows of dst
    int64_t reduced                 # rows of src that make one of them
    int64_t rows, chunk             # rows of dst in a tile, and elements of a row at a time
    int64_t whole                   # 1: the last axis is reduced as well, dst has one element a row
    int64_t op                      # of two variables; for sums not looked at
    int64_t before, after           # functions of one variable, for sums
    double scale                    # of sums


cdef struct reduce_tile:
    int64_t first_row, last_row
    int64_t first, count            # elements of each row


cdef inline reduce_tile tile_of(const reduce_params *p, int64_t width, int64_t tile) noexcept nogil:
    cdef reduce_tile r
    cdef int64_t chunks = 1 if p.whole else (width + p.chunk - 1) // p.chunk
    r.first_row = tile // chunks * p.rows
    r.last_row = min(r.first_row + p.rows, p.kept)
    r.first = 0 if p.whole else tile % chunks * p.chunk
    r.count = width if p.whole else min(p.chunk, width - r.first)
    return r


cdef inline float *result_at(const cnx_tensor *dst, int64_t row, int64_t first) noexcept nogil:
    return <float *>dst.data + row * dst.stride[0] + first


cdef void sum_rows_of(const cnx_simd *simd, const reduce_params *p, const cnx_tensor *src, int64_t row, reduce_tile r,
                      float *scratch, float *to) noexcept nogil:
    # to = the sum of the source rows that make row `row`; runs are rows of the innermost reduced axis
    cdef int64_t inner = src.shape[src.rank - 2] if p.reduced > 1 else 1, j = 0, run, pending = 0, k
    cdef float *acc = scratch
    cdef float *changed = scratch + p.chunk
    cdef const float *from_
    memset(to, 0, r.count * sizeof(float))
    memset(acc, 0, r.count * sizeof(float))
    while j < p.reduced:
        run = min(inner - j % inner, ROWS_PER_SUM - pending)
        from_ = row_at(src, row * p.reduced + j, r.first)
        if p.before == CNX_IDENTITY:
            simd.sum_rows(from_, src.stride[src.rank - 2] if run > 1 else 0, run, acc, r.count)
        else:
            for k in range(run):
                simd.unary(<int32_t>p.before, from_ + k * src.stride[src.rank - 2], changed, r.count, NULL)
                simd.axpy(1, changed, acc, r.count)
        j += run
        pending += run
        if pending == ROWS_PER_SUM or j == p.reduced:
            simd.axpy(1, acc, to, r.count)
            memset(acc, 0, r.count * sizeof(float))
            pending = 0


cdef double sum_along(const cnx_simd *simd, const float *x, int64_t n, float *acc) noexcept nogil:
    cdef int64_t i = 0, run, k
    cdef double total = 0
    while n - i >= 2 * LANES:
        run = min((n - i) // LANES, ROWS_PER_SUM)
        memset(acc, 0, LANES * sizeof(float))
        simd.sum_rows(x + i, LANES, run, acc, LANES)
        for k in range(LANES):
            total += acc[k]
        i += run * LANES
    for k in range(i, n):
        total += x[k]
    return total


cdef double sum_elements(const cnx_simd *simd, const reduce_params *p, const cnx_tensor *src, int64_t row,
                         float *scratch) noexcept nogil:
    cdef int64_t width = src.shape[src.rank - 1], j, c, n
    cdef float *changed = scratch + LANES
    cdef const float *from_
    cdef double total = 0
    for j in range(p.reduced):
        from_ = row_at(src, row * p.reduced + j, 0)
        if p.before == CNX_IDENTITY:
            total += sum_along(simd, from_, width, scratch)
            continue
        c = 0
        while c < width:
            n = min(p.chunk, width - c)
            simd.unary(<int32_t>p.before, from_ + c, changed, n, NULL)
            total += sum_along(simd, changed, n, scratch)
            c += n
    return total


cdef int sum_axes(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = after(scale * sum of before(src)). src[0]: kept axes, then reduced axes, then the row; dst[0] (kept, width or 1),
    # dense; scratch: two chunks, or LANES and a chunk
    cdef const reduce_params *p = <const reduce_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef reduce_tile r = tile_of(p, src.shape[src.rank - 1], worker.tile)
    cdef float scale = <float>p.scale
    cdef float *scratch = <float *>worker.scratch
    cdef float *to
    cdef int64_t row, n = 1 if p.whole else r.count
    for row in range(r.first_row, r.last_row):
        to = result_at(&args.dst[0], row, r.first)
        if p.whole:
            to[0] = <float>(p.scale * sum_elements(worker.simd, p, src, row, scratch))
        else:
            sum_rows_of(worker.simd, p, src, row, r, scratch, to)
            if scale != 1:
                worker.simd.binary(CNX_MULTIPLY, to, 1, &scale, 0, to, n)
        if p.after != CNX_IDENTITY:
            worker.simd.unary(<int32_t>p.after, to, to, n, NULL)
    return CNX_OK


cdef void fold_row(const cnx_simd *simd, int32_t op, const float *x, int64_t n, float *acc) noexcept nogil:
    # acc[0] = all n elements joined by op
    cdef int64_t live = min(n, <int64_t>LANES), i = live, half
    memcpy(acc, x, live * sizeof(float))
    while i < n:
        simd.binary(op, acc, 1, x + i, 1, acc, min(<int64_t>LANES, n - i))
        i += LANES
    while live > 1:
        half = live // 2
        simd.binary(op, acc, 1, acc + live - half, 1, acc, half)
        live -= half


cdef int fold_axes(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = the elements of src joined by op, at least one; layouts as sum_axes; scratch: LANES floats
    cdef const reduce_params *p = <const reduce_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef reduce_tile r = tile_of(p, src.shape[src.rank - 1], worker.tile)
    cdef int32_t op = <int32_t>p.op
    cdef float *acc = <float *>worker.scratch
    cdef float *to
    cdef const float *from_
    cdef const float *next_row = NULL
    cdef int64_t row, j, inner = src.shape[src.rank - 2] if p.reduced > 1 else 1
    for row in range(r.first_row, r.last_row):
        to = result_at(&args.dst[0], row, r.first)
        for j in range(p.reduced):
            if j % inner == 0:
                next_row = row_at(src, row * p.reduced + j, r.first)
            from_ = next_row
            next_row += src.stride[src.rank - 2] if inner > 1 else 0
            if p.whole:
                fold_row(worker.simd, op, from_, r.count, acc)
                from_ = acc
            if j == 0:
                memcpy(to, from_, (1 if p.whole else r.count) * sizeof(float))
            else:
                worker.simd.binary(op, to, 1, from_, 1, to, 1 if p.whole else r.count)
    return CNX_OK


cdef reduce_params reduce_zero

KERNELS = {
    "sum_axes": kernel("sum_axes", sum_axes),
    "fold_axes": kernel("fold_axes", fold_axes),
}
PARAMS = {
    "sum_axes": fields(reduce_zero),
    "fold_axes": fields(reduce_zero),
}
