"""Elementwise functions of two values, strided copies, and sums over pixels.

Design
    Memory-bound: one pass, rows as long as the merged axes allow, all arithmetic in the row primitives. Broadcasting is
    a stride of 0, on whole axes or on the row itself. Sums over pixels are cut into a fixed number of shards, so that
    the result does not depend on the workers.
"""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_simd, cnx_tensor, cnx_worker

include "table.pxi"
include "rows.pxi"


cdef struct binary_params:
    int64_t rows, chunk
    int64_t op


cdef int binary(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = op(src[0], src[1]); the rows of a source may have stride 0 or 1
    cdef const binary_params *p = <const binary_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const cnx_tensor *a = &args.src[0]
    cdef const cnx_tensor *b = &args.src[1]
    cdef row_range r = tile_rows(dst, <const rows_params *>p, worker.tile)
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        worker.simd.binary(<int32_t>p.op, row_at(a, row, r.first), a.stride[a.rank - 1], row_at(b, row, r.first),
                           b.stride[b.rank - 1], row_at(dst, row, r.first), r.count)
    return CNX_OK


cdef int copy(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = src, any strides on both sides; no sources: dst = 0
    cdef const rows_params *p = <const rows_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef row_range r = tile_rows(dst, p, worker.tile)
    cdef int64_t row, i
    cdef int64_t to_step = dst.stride[dst.rank - 1]
    cdef int64_t from_step = args.src[0].stride[dst.rank - 1] if args.n_src else 0
    cdef const float *from_
    cdef float *to
    for row in range(r.first_row, r.last_row):
        to = row_at(dst, row, r.first)
        if args.n_src == 0:
            for i in range(r.count):
                to[i * to_step] = 0
            continue
        from_ = row_at(&args.src[0], row, r.first)
        if to_step == 1 and from_step == 1:
            memcpy(to, from_, r.count * sizeof(float))
        else:
            for i in range(r.count):
                to[i * to_step] = from_[i * from_step]
    return CNX_OK


cdef struct sum_pixels_params:
    int64_t shards


cdef int sum_pixels(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] (lines, pixels, C), lines on one axis or more, dst[0] (shards, C): one tile sums one shard of the lines
    cdef const sum_pixels_params *p = <const sum_pixels_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef int64_t pixels = src.shape[src.rank - 2], channels = src.shape[src.rank - 1], line
    cdef int64_t total = n_rows(src) // pixels
    cdef float *acc = <float *>args.dst[0].data + worker.tile * channels
    memset(acc, 0, channels * sizeof(float))
    for line in range(worker.tile * total // p.shards, (worker.tile + 1) * total // p.shards):
        worker.simd.sum_rows(row_at(src, line * pixels, 0), src.stride[src.rank - 2], pixels, acc, channels)
    return CNX_OK


cdef struct sum_axes_params:
    int64_t kept                    # rows of dst
    int64_t reduced                 # rows of src that make one of them
    int64_t rows                    # rows of dst in a tile
    int64_t whole                   # 1: the last axis is summed as well, dst has one element a row


cdef enum:
    ROWS_PER_SUM = 64               # a long sum is one of short ones: its error grows with the root of the rows


cdef void sum_many_rows(const cnx_simd *simd, const cnx_tensor *src, int64_t first, int64_t count, float *acc,
                        float *to) noexcept nogil:
    cdef int64_t width = src.shape[src.rank - 1], j
    memset(to, 0, width * sizeof(float))
    memset(acc, 0, width * sizeof(float))
    for j in range(count):
        simd.sum_rows(row_at(src, first + j, 0), width, 1, acc, width)
        if (j + 1) % ROWS_PER_SUM == 0 or j + 1 == count:
            simd.axpy(1, acc, to, width)
            memset(acc, 0, width * sizeof(float))


cdef double sum_elements(const cnx_tensor *src, int64_t first, int64_t count) noexcept nogil:
    cdef int64_t width = src.shape[src.rank - 1], step = src.stride[src.rank - 1], j, c
    cdef const float *from_
    cdef double total = 0
    for j in range(count):
        from_ = row_at(src, first + j, 0)
        for c in range(width):
            total += from_[c * step]
    return total


cdef int sum_axes(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0]: kept axes, then reduced axes, then the row; dst[0] (kept, width or 1), dense; scratch: a row of dst
    cdef const sum_axes_params *p = <const sum_axes_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef int64_t first = worker.tile * p.rows, row
    cdef float *to
    for row in range(first, min(first + p.rows, p.kept)):
        to = <float *>args.dst[0].data + row * args.dst[0].stride[0]
        if p.whole:
            to[0] = <float>sum_elements(src, row * p.reduced, p.reduced)
        else:
            sum_many_rows(worker.simd, src, row * p.reduced, p.reduced, <float *>worker.scratch, to)
    return CNX_OK


cdef binary_params binary_zero
cdef rows_params copy_zero
cdef sum_pixels_params sum_pixels_zero
cdef sum_axes_params sum_axes_zero

KERNELS = {
    "binary": kernel("binary", binary),
    "copy": kernel("copy", copy),
    "sum_pixels": kernel("sum_pixels", sum_pixels),
    "sum_axes": kernel("sum_axes", sum_axes),
}
PARAMS = {
    "binary": fields(binary_zero),
    "copy": fields(copy_zero),
    "sum_pixels": fields(sum_pixels_zero),
    "sum_axes": fields(sum_axes_zero),
}
