"""Depthwise convolution: every channel has a window of its own.

Design
    Loop order: tile (rows of one image, a range of channels) -> block of channels -> output row -> a primitive. The caches
    and the loads decide: of so many channels at a time that the KH source rows of an output row are still in L1 for the
    next one.
    With all channels of a row at once, each source row came KH times from L2: 5 to 20 % on maps of 28x28 and less.
    Windows of 3, 5 or 7 neighbouring columns at stride 1 or 2: `depthwise_row`, where a row of the source slides past the
    sums of 8 pixels and a loaded value serves up to KW multiply-adds.
    Other windows: `taps_dot` for each run of pixels with the same taps, 4 pixels x 2 vectors of channels in registers over
    all taps; a loaded value serves one.
    Backward-data is the same kernel with the tap lists of `_taps.py`, one per output phase; at stride 1 its window is
    the forward one with the weights in falling order.
    Backward-weights: per output row, `depthwise_diff_row` for the sliding windows, whose sums stay in registers along the
    row; for others, per tap, the sum over the row's pixels of source times diff_dst. The rows of all images are dealt to a
    number of shards that the shapes fix; their sums are added in shard order.
"""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from cnnext.plugin cimport CNX_ADD, CNX_CLIP, CNX_OK, cnx_args, cnx_depthwise, cnx_taps, cnx_tensor, cnx_worker

include "table.pxi"
include "window.pxi"


cdef struct conv_depthwise_params:
    int64_t n_taps, SH, SW, first, last, rows, channels     # window_params
    int64_t KH, KW                  # a window whose columns slide, else 0
    int64_t block                   # channels that all rows of a tile are done for before the next; a multiple of a vector
    int64_t dh, dw                  # of its first tap
    int64_t weight_first, weight_step   # row of the weights of the first tap, and from one to the next
    int64_t has_bias, has_add
    int64_t far                     # the source comes from beyond L2
    int64_t post_op                 # unary function after low/high, or -1
    double low, high
    double post_0, post_1


cdef int conv_depthwise(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] taps, src[2] weights (KH * KW, C), then bias (C,) and what is added, as they are there
    cdef const conv_depthwise_params *p = <const conv_depthwise_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const cnx_tensor *add = &args.src[3 + p.has_bias] if p.has_add else NULL
    cdef window_walk w = walk_of(<const window_params *>p, &args.src[0], <const int64_t *>args.src[1].data, dst, worker,
                                 worker.simd.taps_dot)
    cdef const float *weights = <const float *>args.src[2].data + w.c0
    cdef const float *bias = <const float *>args.src[3].data + w.c0 if p.has_bias else NULL
    cdef float low = -INFINITY if add != NULL else <float>p.low, high = INFINITY if add != NULL else <float>p.high
    cdef cnx_taps t = taps_of(&w)
    cdef cnx_depthwise row = sliding_row(p, &w, low, high)
    cdef float[2] constants = [<float>p.post_0, <float>p.post_1]
    cdef int64_t oh, c = 0
    t.weights = weights
    t.bias = bias
    t.low = low
    t.high = high
    row.post_op = -1 if add != NULL else p.post_op
    row.post = constants
    while c < w.channels:
        for oh in range(w.oh_begin, w.oh_end):
            if p.KW:
                slide_row(p, worker, &w, &row, weights, bias, c, oh)
            else:
                walk_row(&w, &t, oh, NULL, NULL)
        c += p.block
    if add != NULL or p.post_op >= 0 and p.KW == 0:
        for oh in range(w.oh_begin, w.oh_end):
            finish_row(p, worker, &w, add, constants, oh)
    return CNX_OK


cdef inline cnx_depthwise sliding_row(const conv_depthwise_params *p, const window_walk *w, float low,
                                      float high) noexcept nogil:
    # what all rows of a tile have in common
    cdef cnx_depthwise row
    cdef int64_t channels = w.dst.shape[3]
    row.src = row.weights = row.bias = row.post = NULL
    row.dst = NULL
    row.rows = 0
    row.post_op = -1
    row.count = w.dst.shape[2]
    row.far = p.far
    row.channels = 0
    row.KW = p.KW
    row.SW = p.SW
    row.first = -p.dw
    row.last = w.src.shape[2] - p.dw
    row.src_row = w.src.stride[1]
    row.src_col = w.src.stride[2]
    row.weight_row = p.KW * p.weight_step * channels
    row.weight_col = p.weight_step * channels
    row.dst_col = w.dst.stride[2]
    row.low = low
    row.high = high
    return row


cdef inline void slide_row(const conv_depthwise_params *p, cnx_worker *worker, const window_walk *w, cnx_depthwise *row,
                           const float *weights, const float *bias, int64_t c, int64_t oh) noexcept nogil:
    # the channels of a block from c on; the rows of the window that lie in the image: [top, bottom)
    cdef int64_t ih = oh * p.SH + p.dh, top = max(0, -ih), bottom = min(p.KH, w.src.shape[1] - ih)
    row.rows = max(0, bottom - top)
    row.channels = min(p.block, w.channels - c)
    row.src = pixel_at(w.src, w.n, ih + top, p.dw, w.c0 + c)
    row.weights = weights + (p.weight_first + top * p.KW * p.weight_step) * w.dst.shape[3] + c
    row.bias = bias + c if bias != NULL else NULL
    row.dst = pixel_at(w.dst, w.n, oh, 0, w.c0 + c)
    worker.simd.depthwise_row(row)


cdef void finish_row(const conv_depthwise_params *p, cnx_worker *worker, const window_walk *w, const cnx_tensor *add,
                     const float *constants, int64_t oh) noexcept nogil:
    # What the primitive has not done: a pass of its own over the row, which is still in L1.
    cdef const cnx_tensor *dst = w.dst
    cdef int64_t columns = dst.shape[2], step = dst.stride[2], ow
    cdef float[2] bounds = [<float>p.low, <float>p.high]
    cdef float *y = pixel_at(dst, w.n, oh, 0, w.c0)
    if add != NULL:
        for ow in range(columns):
            worker.simd.binary(CNX_ADD, y + ow * step, 1, pixel_at(add, w.n, oh, ow, w.c0), 1, y + ow * step, w.channels)
        worker.simd.unary_rows(CNX_CLIP, y, step, y, step, columns, w.channels, bounds)
    if p.post_op >= 0:
        worker.simd.unary_rows(<int32_t>p.post_op, y, step, y, step, columns, w.channels, constants)


cdef struct depthwise_backward_weights_params:
    int64_t n_taps                  # table src[2]: n_taps rows of (dh, dw, row of diff_weights)
    int64_t SH, SW
    int64_t shards
    int64_t far                     # the source comes from beyond L2
    int64_t KH, KW                  # a window whose columns slide, else 0
    int64_t dh, dw                  # of its first tap
    int64_t weight_first, weight_step   # row of diff_weights of the first tap, and from one to the next


cdef int depthwise_backward_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] diff_dst, dst[0] (shards, KH * KW, C), overwritten; one tile is one shard
    cdef const depthwise_backward_weights_params *p = <const depthwise_backward_weights_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *diff_dst = &args.src[1]
    cdef int64_t OH = diff_dst.shape[1], rows = diff_dst.shape[0] * OH, C = src.shape[3], row
    cdef float *sums = <float *>args.dst[0].data + worker.tile * args.dst[0].stride[0]
    memset(sums, 0, args.dst[0].shape[1] * C * sizeof(float))
    for row in range(worker.tile * rows // p.shards, (worker.tile + 1) * rows // p.shards):
        if p.KW:
            add_sliding_row(p, src, diff_dst, worker, row // OH, row % OH, sums)
        else:
            add_row(p, src, diff_dst, <const int64_t *>args.src[2].data, worker, row // OH, row % OH, sums)
    return CNX_OK


cdef void add_sliding_row(const depthwise_backward_weights_params *p, const cnx_tensor *src, const cnx_tensor *diff_dst,
                          cnx_worker *worker, int64_t n, int64_t oh, float *sums) noexcept nogil:
    cdef int64_t ih = oh * p.SH + p.dh, top = max(0, -ih), bottom = min(p.KH, src.shape[1] - ih), C = src.shape[3]
    cdef cnx_depthwise t
    t.count = diff_dst.shape[2]
    t.far = p.far
    t.channels = C
    t.rows = max(0, bottom - top)
    t.KW = p.KW
    t.SW = p.SW
    t.first = -p.dw
    t.last = src.shape[2] - p.dw
    t.src = pixel_at(src, n, ih + top, p.dw, 0)
    t.src_row = src.stride[1]
    t.src_col = src.stride[2]
    t.weight_row = p.KW * p.weight_step * C
    t.weight_col = p.weight_step * C
    t.dst_col = diff_dst.stride[2]
    worker.simd.depthwise_diff_row(&t, pixel_at(diff_dst, n, oh, 0, 0),
                                   sums + (p.weight_first + top * p.KW * p.weight_step) * C)


cdef void add_row(const depthwise_backward_weights_params *p, const cnx_tensor *src, const cnx_tensor *diff_dst,
                  const int64_t *table, cnx_worker *worker, int64_t n, int64_t oh, float *sums) noexcept nogil:
    cdef int64_t C = src.shape[3], i, ih, dw, begin, end
    for i in range(p.n_taps):
        ih = oh * p.SH + table[3 * i]
        dw = table[3 * i + 1]
        # output columns whose tap lies in the image: 0 <= ow * SW + dw < IW
        begin = (p.SW - 1 - dw) // p.SW if dw < 0 else 0
        end = min((src.shape[2] - dw + p.SW - 1) // p.SW, diff_dst.shape[2]) if dw < src.shape[2] else 0
        if 0 <= ih < src.shape[1] and begin < end:
            worker.simd.dot_rows(pixel_at(src, n, ih, begin * p.SW + dw, 0), p.SW * src.stride[2],
                                 pixel_at(diff_dst, n, oh, begin, 0), diff_dst.stride[2], end - begin,
                                 sums + table[3 * i + 2] * C, C)


cdef conv_depthwise_params conv_depthwise_zero
cdef depthwise_backward_weights_params depthwise_backward_weights_zero

KERNELS = {
    "conv_depthwise": kernel("conv_depthwise", conv_depthwise),
    "depthwise_backward_weights": kernel("depthwise_backward_weights", depthwise_backward_weights),
}
PARAMS = {
    "conv_depthwise": fields(conv_depthwise_zero),
    "depthwise_backward_weights": fields(depthwise_backward_weights_zero),
}
