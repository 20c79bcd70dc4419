"""Padding, upsampling and their gradients, and transposes.

Design
    Resampling is linear and separable: a row of the result is a weighted sum of source rows, a pixel of it a weighted
    sum of that row's pixels. The plan lists the terms of every row and column; the gradient is the same kernel over the
    transposed lists. So each element of a result is gathered by one tile in a fixed order, and none is scattered to.
    A row that is one source row is read in place, others are summed into scratch first; pixels that are neighbours in
    the source are copied together.
    Transposes run in blocks of 16 x 16 through the stack: each cache line of source and result is touched once, so rows
    whose distance is a power of two (they share a few L1 sets) cost no more than others.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cnnext.plugin cimport CNX_MULTIPLY, CNX_OK, cnx_args, cnx_simd, cnx_tensor, cnx_worker

include "table.pxi"

cdef enum:
    BLOCK = 16                      # floats: one cache line


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


cdef inline void add_term(const cnx_simd *simd, bint first, float weight, const float *x, float *y,
                          int64_t n) noexcept nogil:
    if not first:
        simd.axpy(weight, x, y, n)
    elif weight == 1:
        memcpy(y, x, n * sizeof(float))
    else:
        simd.binary(CNX_MULTIPLY, x, 1, &weight, 0, y, n)


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
    cdef int64_t width = src.shape[2], channels = src.shape[3], step = src.stride[2], t, i
    cdef int64_t first = rows.start[row]
    cdef const float *from_
    for t in range(first, rows.start[row + 1]):
        from_ = image + rows.index[t] * src.stride[1]
        if step == channels:
            add_term(simd, t == first, rows.weight[t], from_, sum, width * channels)
            continue
        for i in range(width):
            add_term(simd, t == first, rows.weight[t], from_ + i * step, sum + i * channels, channels)


cdef void resample_row(const cnx_simd *simd, const terms *cols, const float *from_, int64_t from_step, float *to,
                       int64_t to_step, int64_t pixels, int64_t channels, float value) noexcept nogil:
    cdef int64_t i = 0, run, t
    cdef bint joined = from_step == channels and to_step == channels
    while i < pixels:
        run = 1
        if is_copy(cols, i):
            while joined and i + run < pixels and is_copy(cols, i + run) and (
                    cols.index[cols.start[i + run]] == cols.index[cols.start[i]] + run):
                run += 1
            memcpy(to + i * to_step, from_ + cols.index[cols.start[i]] * from_step, run * channels * sizeof(float))
        elif cols.start[i] == cols.start[i + 1]:
            fill(to + i * to_step, to_step, 1, channels, value)
        else:
            for t in range(cols.start[i], cols.start[i + 1]):
                add_term(simd, t == cols.start[i], cols.weight[t], from_ + cols.index[t] * from_step, to + i * to_step,
                         channels)
        i += run


cdef int resample(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: source (N, IH, IW, C), then start, index and weight of the rows' terms and of the columns';
    # dst (N, OH, OW, C); scratch: IW * C floats
    cdef const resample_params *p = <const resample_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef terms rows = read_terms(&args.src[1])
    cdef terms cols = read_terms(&args.src[4])
    cdef int64_t pixels = dst.shape[2], channels = dst.shape[3], line, oh, from_step
    cdef const float *image
    cdef const float *from_
    cdef float *to
    for line in range(worker.tile * p.rows, min((worker.tile + 1) * p.rows, dst.shape[0] * dst.shape[1])):
        oh = line % dst.shape[1]
        image = <const float *>src.data + line // dst.shape[1] * src.stride[0]
        to = <float *>dst.data + line // dst.shape[1] * dst.stride[0] + oh * dst.stride[1]
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


cdef inline void transpose_edge(const float *from_, int64_t from_step, float *to, int64_t to_step, int64_t rows,
                                int64_t cols) noexcept nogil:
    # to[r][c] = from[c][r]; the longer side is the inner loop
    cdef int64_t r, c
    if rows > cols:
        for c in range(cols):
            for r in range(rows):
                to[r * to_step + c] = from_[c * from_step + r]
    else:
        for r in range(rows):
            for c in range(cols):
                to[r * to_step + c] = from_[c * from_step + r]


cdef inline void transpose_block(const float *from_, int64_t from_step, float *to, int64_t to_step) noexcept nogil:
    cdef float[BLOCK * BLOCK] block
    cdef int64_t r, c
    for c in range(BLOCK):
        for r in range(BLOCK):
            block[r * BLOCK + c] = from_[c * from_step + r]
    for r in range(BLOCK):
        memcpy(to + r * to_step, block + r * BLOCK, BLOCK * sizeof(float))


cdef void transpose_blocks(const float *from_, int64_t from_step, float *to, int64_t to_step, int64_t rows,
                           int64_t cols) noexcept nogil:
    cdef int64_t r = 0, c
    while r < rows:
        c = 0
        while c < cols:
            if r + BLOCK <= rows and c + BLOCK <= cols:
                transpose_block(from_ + c * from_step + r, from_step, to + r * to_step + c, to_step)
            else:
                transpose_edge(from_ + c * from_step + r, from_step, to + r * to_step + c, to_step,
                               min(<int64_t>BLOCK, rows - r), min(<int64_t>BLOCK, cols - c))
            c += BLOCK
        r += BLOCK


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
    transpose_blocks(from_, from_step, to, to_step, min(p.rows, R - row), min(p.cols, C - col))
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
