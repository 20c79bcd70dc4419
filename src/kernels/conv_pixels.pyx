"""Direct convolution to few filters: pixels in the lanes, where the tiles of conv_direct would leave most lanes empty.

Design
    A tile is a block of output pixels of one image and one group, with all filters of the group. Its source window, with
    zeros where it leaves the image, is copied into the worker's scratch as planes: one row of floats for each source row,
    channel and, with strides, residue of the columns, so that the pixels that one term of the sum needs are neighbours. The
    register tile (simd/pixels.inc.c) reads a vector of them for each term, whose place in the planes is a table.
    With a pool, the tile's pixels are windows of 2 x 2 pixels of the convolution, which is never stored.
    A plane row is long enough for whole vectors; what lies beyond the pixels is zero.
    Rows near the upper and lower border leave out the terms whose source row is padding, where that saves much:
    backward-data of a valid convolution is mostly border. A product with a zero of the padding changes no sum (but the
    sign of a zero) unless the weight is infinite or NaN, and then conv_direct gives NaN; so with such weights all terms
    are computed.
    LeNet-5's second layer, 64 images of 10x10x16 to 14x14x6 through 5x5 taps on one core of Zen 4: 77 % of the terms, 539 us
    for 666.
    Measured against conv_direct: docs/design/0002-taps.md.
"""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_pixels, cnx_tensor, cnx_worker

include "table.pxi"


cdef struct conv_pixels_params:
    int64_t G, IC, OC               # channels per group
    int64_t SH, SW
    int64_t depth                   # taps * IC; table src[2]: the places of the terms in the planes
    int64_t width                   # of the packed weights: one panel for a group
    int64_t pool                    # 1, or 2: the largest of 2 x 2 pixels
    int64_t rows, cols              # output pixels of a tile
    int64_t dh_min, dw_min          # first source row and column of a window, relative to its first result
    int64_t span_h                  # source rows of a window
    int64_t pitch                   # elements of a plane's row
    int64_t runs                    # table src[3]: runs of result rows, as (end, first term, end of the terms) they need
    int64_t has_bias
    int64_t post_op                 # unary function after low/high, or -1
    double low, high
    double post_0, post_1


cdef inline int64_t imin(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t first_inside(int64_t col, int64_t step, int64_t limit) noexcept nogil:
    # the smallest i from 0 to limit with col + i * step >= 0
    return 0 if col >= 0 else imin((step - 1 - col) // step, limit)


cdef inline void clear(float *to, int64_t n) noexcept nogil:
    if n > 0:                       # often none, and the call would cost more than the copy beside it
        memset(to, 0, n * sizeof(float))


cdef void split_row(const conv_pixels_params *p, const float *row, int64_t pixel, int64_t width, int64_t iw0, float *to,
                    cnx_worker *worker) noexcept nogil:
    # one source row of `width` pixels as its planes: element i of residue j is pixel iw0 + j + i * SW
    cdef int64_t residue, first, last, c, step = p.SW * p.pitch
    for residue in range(p.SW):
        first = first_inside(iw0 + residue, p.SW, p.pitch)
        last = first_inside(iw0 + residue - width, p.SW, p.pitch)
        for c in range(p.IC):
            clear(to + c * step, first)
            clear(to + c * step + last, p.pitch - last)
        if last > first:
            worker.simd.transpose(row + (iw0 + residue + first * p.SW) * pixel, p.SW * pixel, to + first, step, p.IC,
                                  last - first)
        to += p.pitch


cdef void copy_rows(const conv_pixels_params *p, const cnx_tensor *src, const float *image, int64_t ih0, int64_t iw0,
                    int64_t rows, float *planes) noexcept nogil:
    # one channel at stride 1 is its own plane: all zeros in one call, then each row in one
    cdef int64_t first = first_inside(iw0, 1, p.pitch), last = first_inside(iw0 - src.shape[2], 1, p.pitch), r
    memset(planes, 0, rows * p.pitch * sizeof(float))
    if last <= first:
        return
    for r in range(rows):
        if 0 <= ih0 + r < src.shape[1]:
            memcpy(planes + r * p.pitch + first, image + (ih0 + r) * src.stride[1] + iw0 + first,
                   (last - first) * sizeof(float))


cdef void split_rows(const conv_pixels_params *p, const cnx_tensor *src, const float *image, int64_t ih0, int64_t iw0,
                     int64_t rows, float *planes, cnx_worker *worker) noexcept nogil:
    cdef int64_t r, step = p.IC * p.SW * p.pitch
    for r in range(rows):
        if 0 <= ih0 + r < src.shape[1]:
            split_row(p, image + (ih0 + r) * src.stride[1], src.stride[2], src.shape[2], iw0, planes + r * step, worker)
        else:
            memset(planes + r * step, 0, step * sizeof(float))


cdef int conv_pixels(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    cdef const conv_pixels_params *p = <const conv_pixels_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef int64_t N = dst.shape[0], OH = dst.shape[1], OW = dst.shape[2]
    cdef int64_t row_tiles = (OH + p.rows - 1) // p.rows, col_tiles = (OW + p.cols - 1) // p.cols
    cdef int64_t tile = worker.tile
    cdef int64_t ow0 = tile % col_tiles * p.cols
    cdef int64_t oh0 = tile // col_tiles % row_tiles * p.rows
    cdef int64_t n = tile // (col_tiles * row_tiles) % N
    cdef int64_t group = tile // (col_tiles * row_tiles * N)
    cdef int64_t source_row = p.IC * p.SW * p.pitch, rows, ih0, iw0
    cdef const float *image = <const float *>src.data + n * src.stride[0] + group * p.IC
    cdef float *planes = <float *>worker.scratch
    cdef cnx_pixels t

    t.rows = imin(p.rows, OH - oh0)
    t.cols = imin(p.cols, OW - ow0)
    rows = (t.rows * p.pool - 1) * p.SH + p.span_h
    ih0 = oh0 * p.pool * p.SH + p.dh_min
    iw0 = ow0 * p.pool * p.SW + p.dw_min
    if p.IC * p.SW * src.stride[2] == 1:
        copy_rows(p, src, image, ih0, iw0, rows, planes)
    else:
        split_rows(p, src, image, ih0, iw0, rows, planes, worker)
    t.filters = p.OC
    t.depth = p.depth
    t.offset = <const int64_t *>args.src[2].data
    t.src = planes
    t.src_row = p.SH * source_row
    t.weights = <const float *>args.src[1].data + group * (p.depth + (p.runs > 1)) * p.width
    t.weights_row = p.width
    t.bias = <const float *>args.src[4].data + group * p.width if p.has_bias else NULL
    t.dst = <float *>dst.data + n * dst.stride[0] + oh0 * dst.stride[1] + ow0 * dst.stride[2] + group * p.OC
    t.dst_row = dst.stride[1]
    t.dst_pixel = dst.stride[2]
    t.low = <float>p.low
    t.high = <float>p.high
    t.pool = p.pool
    if p.runs > 1 and all_finite(t.weights + p.depth * p.width, p.OC):
        by_runs(p, worker, &t, <const int64_t *>args.src[3].data, oh0)
    else:
        worker.simd.pixel_rows(&t)
    if p.post_op >= 0:
        apply(p, worker, &t)
    return CNX_OK


cdef inline bint all_finite(const float *x, int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        if x[i] - x[i] != 0:
            return False
    return True


cdef void by_runs(const conv_pixels_params *p, cnx_worker *worker, const cnx_pixels *tile, const int64_t *run,
                  int64_t oh0) noexcept nogil:
    # each run of rows with the terms that it needs, which are neighbours
    cdef cnx_pixels t = tile[0]
    cdef int64_t row = 0, i
    for i in range(p.runs):
        t.rows = imin(run[3 * i] - oh0, tile.rows) - row
        if t.rows <= 0:
            continue
        t.src = tile.src + row * p.pool * tile.src_row
        t.dst = tile.dst + row * tile.dst_row
        t.offset = tile.offset + run[3 * i + 1]
        t.weights = tile.weights + run[3 * i + 1] * p.width
        t.depth = run[3 * i + 2] - run[3 * i + 1]
        worker.simd.pixel_rows(&t)
        row += t.rows


cdef void apply(const conv_pixels_params *p, cnx_worker *worker, const cnx_pixels *t) noexcept nogil:
    # the function that follows, on rows that are in L1 or L2; short pixels without gaps are one long row
    cdef float[2] constants = [<float>p.post_0, <float>p.post_1]
    cdef int64_t r
    cdef float *row
    for r in range(t.rows):
        row = t.dst + r * t.dst_row
        if t.dst_pixel == t.filters:
            worker.simd.unary(<int32_t>p.post_op, row, row, t.cols * t.filters, constants)
        else:
            worker.simd.unary_rows(<int32_t>p.post_op, row, t.dst_pixel, row, t.dst_pixel, t.cols, t.filters, constants)


cdef conv_pixels_params conv_pixels_zero

KERNELS = {"conv_pixels": kernel("conv_pixels", conv_pixels)}
PARAMS = {"conv_pixels": fields(conv_pixels_zero)}
