"""Direct convolution to few filters, and the gradient of its weights: pixels in the lanes, where the tiles of conv_direct
would leave most lanes empty.

Design
    A tile is a block of output pixels of one image and one group, with all filters of the group. Its source window, with
    zeros where it leaves the image, is copied into the worker's scratch as planes: one row of floats for each source row,
    channel and, with strides, residue of the columns, so that the pixels that one term of the sum needs are neighbours. The
    register tile (simd/pixels.inc.c) reads a vector of them for each term, whose place in the planes is a table.
    With a pool, the tile's pixels are windows of 2 x 2 pixels of the convolution, which is never stored.
    A plane row is long enough for whole vectors; what lies beyond the pixels is zero.
    Rows near the upper and lower border leave out the terms whose source row is padding, where that saves much: backward-
    data of a valid convolution is mostly border. A product with a zero of the padding changes no sum (but the sign of a
    zero) unless the weight is infinite or NaN, and then conv_direct gives NaN; so with such weights all terms are computed.
    LeNet-5's second layer, 64 images of 10x10x16 to 14x14x6 through 5x5 taps on one core of Zen 4: 77 % of the terms, 539 us
    for 666.
    The gradient of the weights has pixels in the lanes too. Source and gradient of the result become planes, of a block of
    rows, whose rows have one pitch: a block is one run of places for every term and filter, without an edge. Places that are
    no pixel are zero in the gradient; so an infinity or NaN may reach the sums of other taps than those that see it. A tile
    is a shard of the blocks, with all terms and filters of a group: partial sums keep their lanes for all of it.
    Measured against conv_direct: docs/design/0002-taps.md.
"""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_pixels, cnx_pixels_diff, cnx_tensor, cnx_worker

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


cdef struct conv_pixels_backward_weights_params:
    int64_t G, IC, OC               # channels per group
    int64_t SH, SW
    int64_t depth                   # taps * IC; table src[2]: places of the terms in the planes, their rows of diff_weights
    int64_t rows, cols              # output pixels of a block
    int64_t dh_min, dw_min          # first source row and column of a window, relative to its result
    int64_t span_h
    int64_t row_phases, col_phases  # residues of the strides that taps have
    int64_t pitch                   # elements of a plane's row
    int64_t plane                   # of a plane of the source, of which there is one for each channel and residue
    int64_t planes                  # of all of them, with what is read behind the last
    int64_t diff_plane              # of a plane of diff_dst: whole vectors
    int64_t shards


cdef void split_source(const conv_pixels_backward_weights_params *p, const cnx_tensor *src, const float *image, int64_t ih0,
                       int64_t iw0, int64_t rows, float *planes, cnx_worker *worker) noexcept nogil:
    # rows from ih0, columns from iw0 on: element (i, j) of the planes of residues (a, b) is pixel (i * SH + a, j * SW + b)
    cdef int64_t r, b, first, last, step = p.row_phases * p.col_phases * p.plane
    cdef const float *row
    cdef float *to
    memset(planes, 0, p.planes * sizeof(float))
    for r in range(rows):
        if r % p.SH >= p.row_phases or not 0 <= ih0 + r < src.shape[1]:
            continue
        row = image + (ih0 + r) * src.stride[1]
        to = planes + r % p.SH * p.col_phases * p.plane + r // p.SH * p.pitch
        for b in range(p.col_phases):
            first = first_inside(iw0 + b, p.SW, p.pitch)
            last = first_inside(iw0 + b - src.shape[2], p.SW, p.pitch)
            if last > first:
                worker.simd.transpose(row + (iw0 + b + first * p.SW) * src.stride[2], p.SW * src.stride[2],
                                      to + b * p.plane + first, step, p.IC, last - first)


cdef int conv_pixels_backward_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] diff_dst, dst[0] (shards, KH * KW * IC, G * OC), overwritten. A tile is a shard of a group.
    cdef const conv_pixels_backward_weights_params *p = <const conv_pixels_backward_weights_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *diff_dst = &args.src[1]
    cdef int64_t OH = diff_dst.shape[1], OW = diff_dst.shape[2], vl = worker.simd.vl
    cdef int64_t row_blocks = (OH + p.rows - 1) // p.rows, col_blocks = (OW + p.cols - 1) // p.cols
    cdef int64_t blocks = diff_dst.shape[0] * row_blocks * col_blocks
    cdef int64_t shard = worker.tile % p.shards, group = worker.tile // p.shards
    cdef int64_t first = shard * blocks // p.shards, last = (shard + 1) * blocks // p.shards
    cdef int64_t block, n, oh0, ow0, rows, cols, r, filled_rows = 0, filled_cols = 0
    cdef float *planes = <float *>worker.scratch
    cdef float *diff = planes + p.planes
    cdef cnx_pixels_diff g
    g.depth = p.depth
    g.filters = p.OC
    g.src = planes
    g.offset = <const int64_t *>args.src[2].data
    g.place = g.offset + p.depth
    g.diff = diff
    g.diff_plane = p.diff_plane
    g.sums = diff + p.OC * p.diff_plane
    g.dst_row = args.dst[0].stride[1]
    for block in range(first, last):
        n = block // (row_blocks * col_blocks)
        oh0 = block // col_blocks % row_blocks * p.rows
        ow0 = block % col_blocks * p.cols
        rows = imin(p.rows, OH - oh0)
        cols = imin(p.cols, OW - ow0)
        split_source(p, src, <const float *>src.data + n * src.stride[0] + group * p.IC, oh0 * p.SH + p.dh_min,
                     ow0 * p.SW + p.dw_min, (rows - 1) * p.SH + p.span_h, planes, worker)
        if rows != filled_rows or cols != filled_cols:     # what is no pixel now may have been one
            memset(diff, 0, p.OC * p.diff_plane * sizeof(float))
            filled_rows, filled_cols = rows, cols
        for r in range(rows):
            worker.simd.transpose(<const float *>diff_dst.data + n * diff_dst.stride[0] + (oh0 + r) * diff_dst.stride[1]
                                  + ow0 * diff_dst.stride[2] + group * p.OC, diff_dst.stride[2], diff + r * p.pitch,
                                  p.diff_plane, p.OC, cols)
        g.count = (rows * p.pitch + vl - 1) // vl * vl
        g.accumulate = block > first
        g.dst = NULL
        if block == last - 1:
            g.dst = <float *>args.dst[0].data + shard * args.dst[0].stride[0] + group * p.OC
        worker.simd.pixels_diff_weights(&g)
    return CNX_OK


cdef conv_pixels_params conv_pixels_zero
cdef conv_pixels_backward_weights_params conv_pixels_backward_weights_zero

KERNELS = {
    "conv_pixels": kernel("conv_pixels", conv_pixels),
    "conv_pixels_backward_weights": kernel("conv_pixels_backward_weights", conv_pixels_backward_weights),
}
PARAMS = {
    "conv_pixels": fields(conv_pixels_zero),
    "conv_pixels_backward_weights": fields(conv_pixels_backward_weights_zero),
}
