"""Elementwise functions of two values, strided copies, and sums over pixels.

Design
    Memory-bound: one pass, rows as long as the merged axes allow, all arithmetic in the row primitives. Broadcasting is
    a stride of 0, on whole axes or on the row itself. Rows that lie at one distance go to a primitive together: a map
    times a gate of each channel is many rows of few floats. Sums over pixels are cut into a fixed number of shards, so
    that the result does not depend on the workers.
"""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_tensor, cnx_worker

include "table.pxi"
include "rows.pxi"

cdef enum:
    SHORT_ROW = 8       # floats: below this, calling memcpy costs more than copying one by one


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
    cdef int64_t row = r.first_row, rows
    while row < r.last_row:
        rows = rows_alike(dst, row, r.last_row)
        worker.simd.binary_rows(<int32_t>p.op, row_at(a, row, r.first), row_step(a), a.stride[a.rank - 1],
                                row_at(b, row, r.first), row_step(b), b.stride[b.rank - 1],
                                row_at(dst, row, r.first), row_step(dst), rows, r.count)
        row += rows
    return CNX_OK


cdef int copy(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = src, any strides on both sides; no sources: dst = 0
    cdef const rows_params *p = <const rows_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const cnx_tensor *src = &args.src[0] if args.n_src else NULL
    cdef row_range r = tile_rows(dst, p, worker.tile)
    cdef int64_t row = r.first_row, rows, i, j
    cdef int64_t to_step = dst.stride[dst.rank - 1], to_row = row_step(dst)
    cdef int64_t from_step = src.stride[dst.rank - 1] if src != NULL else 0, from_row = row_step(src) if src != NULL else 0
    cdef const float *from_
    cdef float *to
    while row < r.last_row:
        rows = rows_alike(dst, row, r.last_row)
        to = row_at(dst, row, r.first)
        row += rows
        if src == NULL:
            for j in range(rows):
                for i in range(r.count):
                    to[j * to_row + i * to_step] = 0
            continue
        from_ = row_at(src, row - rows, r.first)
        if to_step == 1 and from_step == 1 and r.count >= SHORT_ROW:
            for j in range(rows):
                memcpy(to + j * to_row, from_ + j * from_row, r.count * sizeof(float))
        else:
            for j in range(rows):
                for i in range(r.count):
                    to[j * to_row + i * to_step] = from_[j * from_row + i * from_step]
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


cdef binary_params binary_zero
cdef rows_params copy_zero
cdef sum_pixels_params sum_pixels_zero

KERNELS = {
    "binary": kernel("binary", binary),
    "copy": kernel("copy", copy),
    "sum_pixels": kernel("sum_pixels", sum_pixels),
}
PARAMS = {
    "binary": fields(binary_zero),
    "copy": fields(copy_zero),
    "sum_pixels": fields(sum_pixels_zero),
}
