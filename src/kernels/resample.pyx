"""Padding, upsampling and their gradients, and transposes.

Design
    Resampling is linear and separable: a row of the result is a weighted sum of source rows, a pixel of it a weighted
    sum of that row's pixels. The plan lists the terms of every row and column; the gradient is the same kernel over the
    transposed lists. So each element of a result is gathered by one tile in a fixed order, and none is scattered to.
    A row that is one source row is read in place, others are summed into scratch first; pixels that are neighbours in
    the source are copied together. A row that equals the one before it is a copy of that: nearest neighbours repeat rows.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_simd, cnx_tensor, cnx_worker

include "table.pxi"

cdef enum:
    MIN_RUN = 4                     # pixels that are copied together


cdef struct terms:
    # result i = sum of weight[t] * source[index[t]] for t in start[i] to start[i + 1]
    const int64_t *start
    const int64_t *index
    const float *weight


cdef inline terms read_terms(const cnx_tensor *first) noexcept nogil:
    cdef terms t
    t.start = <const int64_t *>first[0].data
    t.index = <const int64_t *>first[1].data
    t.weight = <const float *>first[2].data
    return t


cdef inline bint is_copy(const terms *t, int64_t i) noexcept nogil:
    return t.start[i + 1] - t.start[i] == 1 and t.weight[t.start[i]] == 1


cdef struct resample_params:
    int64_t rows                    # rows of dst in a tile
    double value                    # of pixels without a term


cdef inline void fill(float *to, int64_t step, int64_t pixels, int64_t channels, float value) noexcept nogil:
    cdef int64_t i, c
    for i in range(pixels):
        for c in range(channels):
            to[i * step + c] = value


cdef void sum_source_rows(const cnx_simd *simd, const terms *rows, int64_t row, const float *image,
                          const cnx_tensor *src, float *sum) noexcept nogil:
    # sum (IW, C) = the terms of one row
    cdef int64_t width = src.shape[2], channels = src.shape[3], step = src.stride[2], i
    if step == channels:
        channels, width = width * channels, 1
    for i in range(width):
        simd.weighted_rows(rows.start + row, rows.index, rows.weight, image + i * step, src.stride[1],
                           sum + i * channels, channels, 1, channels, 0)


cdef inline int64_t copied_run(const terms *cols, int64_t i, int64_t pixels) noexcept nogil:
    # how many pixels from i on are neighbours in the source too
    cdef int64_t run = 0
    while i + run < pixels and is_copy(cols, i + run) and (
            cols.index[cols.start[i + run]] == cols.index[cols.start[i]] + run):
        run += 1
    return run


cdef void resample_row(const cnx_simd *simd, const terms *cols, const float *from_, int64_t from_step, float *to,
                       int64_t to_step, int64_t pixels, int64_t channels, float value) noexcept nogil:
    cdef int64_t i = 0, first = 0, run = 0
    cdef bint joined = from_step == channels and to_step == channels
    while i < pixels:
        run = copied_run(cols, i, pixels) if joined else 0
        if run < MIN_RUN:
            i += max(run, <int64_t>1)
            if i < pixels:
                continue
            run = 0
        simd.weighted_rows(cols.start + first, cols.index, cols.weight, from_, from_step, to + first * to_step, to_step,
                           i - first, channels, value)
        if run:
            memcpy(to + i * to_step, from_ + cols.index[cols.start[i]] * from_step, run * channels * sizeof(float))
        i += run
        first = i


cdef inline bint repeats(const terms *t, int64_t i) noexcept nogil:
    # result i is that before it
    cdef int64_t count = t.start[i + 1] - t.start[i], k
    if i == 0 or count != t.start[i] - t.start[i - 1]:
        return False
    for k in range(t.start[i], t.start[i + 1]):
        if t.index[k] != t.index[k - count] or t.weight[k] != t.weight[k - count]:
            return False
    return True


cdef void copy_pixels(const float *from_, float *to, int64_t step, int64_t pixels, int64_t channels) noexcept nogil:
    cdef int64_t i
    if step == channels:
        channels, pixels = pixels * channels, 1
    for i in range(pixels):
        memcpy(to + i * step, from_ + i * step, channels * sizeof(float))


cdef int resample(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: source (N, IH, IW, C), then start, index and weight of the rows' terms and of the columns';
    # dst (N, OH, OW, C); scratch: IW * C floats
    cdef const resample_params *p = <const resample_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef terms rows = read_terms(&args.src[1])
    cdef terms cols = read_terms(&args.src[4])
    cdef int64_t pixels = dst.shape[2], channels = dst.shape[3], first = worker.tile * p.rows, line, oh, from_step
    cdef const float *image
    cdef const float *from_
    cdef float *to
    for line in range(first, min(first + p.rows, dst.shape[0] * dst.shape[1])):
        oh = line % dst.shape[1]
        image = <const float *>src.data + line // dst.shape[1] * src.stride[0]
        to = <float *>dst.data + line // dst.shape[1] * dst.stride[0] + oh * dst.stride[1]
        if line > first and repeats(&rows, oh):
            copy_pixels(to - dst.stride[1], to, dst.stride[2], pixels, channels)
            continue
        if rows.start[oh] == rows.start[oh + 1]:
            fill(to, dst.stride[2], pixels, channels, <float>p.value)
            continue
        if is_copy(&rows, oh):
            from_ = image + rows.index[rows.start[oh]] * src.stride[1]
            from_step = src.stride[2]
        else:
            sum_source_rows(worker.simd, &rows, oh, image, src, <float *>worker.scratch)
            from_ = <const float *>worker.scratch
            from_step = channels
        resample_row(worker.simd, &cols, from_, from_step, to, dst.stride[2], pixels, channels, <float>p.value)
    return CNX_OK


cdef struct transpose_params:
    int64_t rows, cols              # of dst in a tile


cdef int transpose(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst (batch axes, R, C) = src of the same shape, whose R is contiguous where dst's C is
    cdef const transpose_params *p = <const transpose_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef int rank = dst.rank, axis
    cdef int64_t R = dst.shape[rank - 2], C = dst.shape[rank - 1]
    cdef int64_t from_step = src.stride[rank - 1], to_step = dst.stride[rank - 2]
    cdef int64_t row_tiles = (R + p.rows - 1) // p.rows, col_tiles = (C + p.cols - 1) // p.cols
    cdef int64_t row = worker.tile // col_tiles % row_tiles * p.rows, col = worker.tile % col_tiles * p.cols
    cdef int64_t batch = worker.tile // (row_tiles * col_tiles)
    cdef const float *from_ = <const float *>src.data + col * from_step + row
    cdef float *to = <float *>dst.data + row * to_step + col
    for axis in range(rank - 3, -1, -1):
        from_ += batch % dst.shape[axis] * src.stride[axis]
        to += batch % dst.shape[axis] * dst.stride[axis]
        batch //= dst.shape[axis]
    worker.simd.transpose(from_, from_step, to, to_step, min(p.rows, R - row), min(p.cols, C - col))
    return CNX_OK


cdef resample_params resample_zero
cdef transpose_params transpose_zero

KERNELS = {
    "resample": kernel("resample", resample),
    "transpose": kernel("transpose", transpose),
}
PARAMS = {
    "resample": fields(resample_zero),
    "transpose": fields(transpose_zero),
}
