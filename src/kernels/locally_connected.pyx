"""Locally connected layer: a convolution whose output pixels have weights of their own.

Design
    An output pixel is one matrix product: rows are the images of the batch, K is what the window sees, columns are
    output channels. Where the channels are exactly one panel, the register tile reads the weights where they lie; else
    a block of K is packed in scratch. Each weight is used by one pixel alone, so it is read from memory once.
    Borders: rows and columns of the window that lie outside the source are left out of K.
    Backward-data: one tile owns a band of source rows and adds to them what all windows that touch the band send there.
    Backward-weights: per output pixel, K x images times images x channels; nothing is shared, so nothing is reduced.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_gemm, cnx_tensor, cnx_worker

include "table.pxi"


cdef struct local_params:           # how the parameter structs of the kernels here begin
    int64_t KH, KW, SH, SW
    int64_t PT, PL
    int64_t nv                      # vectors of a panel
    int64_t tile                    # output pixels, or source rows, of a tile


cdef struct window_t:
    int64_t oh, ow
    int64_t kh0, kh1, kw0, kw1      # rows and columns of the window that lie in the image (or in a band of its rows)
    int64_t ih0, iw0                # source pixel of kh = 0, kw = 0
    int64_t run                     # pixels of a window row that lie together and form one segment, else 1


cdef inline int64_t imin(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t imax(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


cdef inline window_t window_of(const local_params *p, const cnx_tensor *image, int64_t oh, int64_t ow,
                               int64_t row_begin, int64_t row_end) noexcept nogil:
    cdef window_t w
    w.oh = oh
    w.ow = ow
    w.ih0 = oh * p.SH - p.PT
    w.iw0 = ow * p.SW - p.PL
    w.kh0 = imax(0, row_begin - w.ih0)
    w.kh1 = imin(p.KH, row_end - w.ih0)
    w.kw0 = imax(0, -w.iw0)
    w.kw1 = imin(p.KW, image.shape[2] - w.iw0)
    if w.kh1 <= w.kh0 or w.kw1 <= w.kw0:
        w.kh1 = w.kh0
        w.kw1 = w.kw0
    w.run = w.kw1 - w.kw0 if image.stride[2] == image.shape[3] else 1
    return w


cdef inline float *pixel_at(const cnx_tensor *t, int64_t n, int64_t h, int64_t w, int64_t c) noexcept nogil:
    return <float *>t.data + n * t.stride[0] + h * t.stride[1] + w * t.stride[2] + c


cdef inline float *weights_at(const cnx_tensor *t, const local_params *p, const window_t *w, int64_t kh, int64_t kw,
                              int64_t channels) noexcept nogil:
    # weights (OH, OW, KH * KW * IC, OC) of one tap: IC rows
    return (<float *>t.data + w.oh * t.stride[0] + w.ow * t.stride[1] + (kh * p.KW + kw) * channels * t.stride[2])


cdef inline void plain_gemm(cnx_gemm *g, int64_t nv) noexcept nogil:
    g.bias = NULL
    g.add = NULL
    g.add_row = 0
    g.low = -INFINITY
    g.high = INFINITY
    g.a_k = 1
    g.nv = <int32_t>nv
    g.accumulate = 0


cdef struct locally_connected_params:
    int64_t KH, KW, SH, SW, PT, PL, nv, tile        # local_params
    int64_t block                   # rows of K that fit the packed panel in scratch
    int64_t has_bias, has_add
    int64_t post_op                 # unary function after low/high, or -1
    double low, high
    double post_0, post_1


cdef int locally_connected(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] weights, then bias (OH, OW, OC) and what is added, as they are there
    cdef const locally_connected_params *p = <const locally_connected_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef int64_t pixel, oc, width = p.nv * worker.simd.vl, OW = dst.shape[2]
    cdef window_t w
    for pixel in range(worker.tile * p.tile, imin((worker.tile + 1) * p.tile, dst.shape[1] * OW)):
        w = window_of(<const local_params *>p, &args.src[0], pixel // OW, pixel % OW, 0, args.src[0].shape[1])
        oc = 0
        while oc < dst.shape[3]:
            forward_panel(p, args, &w, worker, oc, imin(width, dst.shape[3] - oc), width)
            oc += width
    return CNX_OK


cdef void forward_panel(const locally_connected_params *p, const cnx_args *args, const window_t *w, cnx_worker *worker,
                        int64_t oc, int64_t cols, int64_t width) noexcept nogil:
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *weights = &args.src[1]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const cnx_tensor *bias = &args.src[2]
    cdef const cnx_tensor *add = &args.src[2 + p.has_bias]
    cdef float *padded_bias = <float *>worker.scratch
    cdef float *packed = padded_bias + width
    cdef int64_t *seg = <int64_t *>(packed + p.block * width)
    cdef int64_t s, done = 0, per_row = (w.kw1 - w.kw0) // w.run if w.run else 0, total = (w.kh1 - w.kh0) * per_row
    cdef bint in_place = cols == width and weights.stride[2] == width and w.kw1 - w.kw0 == p.KW
    cdef int64_t per_block, kh, kw
    cdef cnx_gemm g
    plain_gemm(&g, p.nv)
    g.rows = dst.shape[0]
    g.cols = cols
    g.seg_len = w.run * src.shape[3]
    g.a = <const float *>src.data
    g.a_row = src.stride[0]
    g.a_seg = seg
    g.b = weights_at(weights, <const local_params *>p, w, w.kh0, 0, src.shape[3]) if in_place else packed
    g.c = pixel_at(dst, 0, w.oh, w.ow, oc)
    g.c_row = dst.stride[0]
    per_block = total if in_place else imax(1, p.block // imax(g.seg_len, 1))
    while True:
        g.n_seg = imin(per_block, total - done)
        for s in range(g.n_seg):
            kh = w.kh0 + (done + s) // per_row
            kw = w.kw0 + (done + s) % per_row
            seg[s] = (w.ih0 + kh) * src.stride[1] + (w.iw0 + kw) * src.stride[2]
            if not in_place:
                pack_rows(weights_at(weights, <const local_params *>p, w, kh, kw, src.shape[3]) + oc,
                          weights.stride[2], g.seg_len, cols, width, packed + s * g.seg_len * width)
        g.accumulate = done > 0
        done += g.n_seg
        if done >= total:
            break
        worker.simd.gemm_rows(&g)
    if p.has_bias:
        pack_rows(<const float *>bias.data + w.oh * bias.stride[0] + w.ow * bias.stride[1] + oc, 0, 1, cols, width,
                  padded_bias)
        g.bias = padded_bias
    if p.has_add:
        g.add = pixel_at(add, 0, w.oh, w.ow, oc)
        g.add_row = add.stride[0]
    g.low = <float>p.low
    g.high = <float>p.high
    worker.simd.gemm_rows(&g)
    if p.post_op >= 0:
        finish_rows(p, worker, g.c, g.c_row, g.rows, cols)


cdef void pack_rows(const float *src, int64_t row, int64_t rows, int64_t cols, int64_t width, float *to) noexcept nogil:
    cdef int64_t k
    for k in range(rows):
        memcpy(to, src + k * row, cols * sizeof(float))
        memset(to + cols, 0, (width - cols) * sizeof(float))
        to += width


cdef void finish_rows(const locally_connected_params *p, cnx_worker *worker, float *c, int64_t c_row, int64_t rows,
                      int64_t cols) noexcept nogil:
    # Functions dearer than a clip: a pass of their own over what is still in L1.
    cdef float[2] constants
    cdef int64_t n
    constants[0] = <float>p.post_0
    constants[1] = <float>p.post_1
    for n in range(rows):
        worker.simd.unary(<int32_t>p.post_op, c + n * c_row, c + n * c_row, cols, constants)


cdef struct locally_connected_backward_data_params:
    int64_t KH, KW, SH, SW, PT, PL, nv, tile        # local_params


cdef int locally_connected_backward_data(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] diff_dst, src[1] weights, dst[0] diff_src, overwritten; one tile is a band of source rows of all images
    cdef const local_params *p = <const local_params *>args.params
    cdef const cnx_tensor *diff_dst = &args.src[0]
    cdef const cnx_tensor *diff_src = &args.dst[0]
    cdef int64_t begin = worker.tile * p.tile, end = imin(begin + p.tile, diff_src.shape[1]), n, h, i, oh, ow, kh, kw
    cdef window_t w
    for n in range(diff_src.shape[0]):
        for h in range(begin, end):
            for i in range(diff_src.shape[2]):
                memset(pixel_at(diff_src, n, h, i, 0), 0, diff_src.shape[3] * sizeof(float))
    for oh in range(diff_dst.shape[1]):
        for ow in range(diff_dst.shape[2]):
            w = window_of(p, diff_src, oh, ow, begin, end)
            for kh in range(w.kh0, w.kh1):
                kw = w.kw0
                while kw < w.kw1:
                    send_back(p, args, &w, worker, kh, kw)
                    kw += w.run
    return CNX_OK


cdef void send_back(const local_params *p, const cnx_args *args, const window_t *w, cnx_worker *worker, int64_t kh,
                    int64_t kw) noexcept nogil:
    # diff_src[:, pixels of the segment] += diff_dst[:, oh, ow] * transposed weights of the segment
    cdef const cnx_tensor *diff_dst = &args.src[0]
    cdef const cnx_tensor *weights = &args.src[1]
    cdef const cnx_tensor *diff_src = &args.dst[0]
    cdef int64_t length = w.run * diff_src.shape[3], width = p.nv * worker.simd.vl, first = 0, zero = 0, k, c
    cdef float *packed = <float *>worker.scratch
    cdef const float *from_
    cdef cnx_gemm g
    plain_gemm(&g, p.nv)
    g.accumulate = 1
    g.rows = diff_dst.shape[0]
    g.n_seg = 1
    g.seg_len = diff_dst.shape[3]
    g.a = pixel_at(diff_dst, 0, w.oh, w.ow, 0)
    g.a_seg = &zero
    g.a_row = diff_dst.stride[0]
    g.b = packed
    g.c_row = diff_src.stride[0]
    while first < length:
        g.cols = imin(width, length - first)
        for k in range(g.cols):
            from_ = weights_at(weights, p, w, kh, kw, diff_src.shape[3]) + (first + k) * weights.stride[2]
            for c in range(g.seg_len):
                packed[c * width + k] = from_[c]
        for c in range(g.seg_len):
            memset(packed + c * width + g.cols, 0, (width - g.cols) * sizeof(float))
        g.c = pixel_at(diff_src, 0, w.ih0 + kh, w.iw0 + kw, first)
        worker.simd.gemm_rows(&g)
        first += width


cdef struct locally_connected_backward_weights_params:
    int64_t KH, KW, SH, SW, PT, PL, nv, tile        # local_params


cdef int locally_connected_backward_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] diff_dst, dst[0] diff_weights, overwritten; one tile is a run of output pixels
    cdef const local_params *p = <const local_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *diff_dst = &args.src[1]
    cdef const cnx_tensor *diff_weights = &args.dst[0]
    cdef int64_t pixel, oc, width = p.nv * worker.simd.vl, OW = diff_dst.shape[2], k
    cdef float *packed = <float *>worker.scratch
    cdef window_t w
    for pixel in range(worker.tile * p.tile, imin((worker.tile + 1) * p.tile, diff_dst.shape[1] * OW)):
        w = window_of(p, src, pixel // OW, pixel % OW, 0, src.shape[1])
        if (w.kh1 - w.kh0) * (w.kw1 - w.kw0) < p.KH * p.KW:
            for k in range(diff_weights.shape[2]):
                memset(weights_at(diff_weights, p, &w, 0, 0, 0) + k * diff_weights.stride[2], 0,
                       diff_weights.shape[3] * sizeof(float))
        oc = 0
        while oc < diff_dst.shape[3]:
            pack_rows(pixel_at(diff_dst, 0, w.oh, w.ow, oc), diff_dst.stride[0], diff_dst.shape[0],
                      imin(width, diff_dst.shape[3] - oc), width, packed)
            weights_panel(p, args, &w, worker, oc, imin(width, diff_dst.shape[3] - oc))
            oc += width
    return CNX_OK


cdef void weights_panel(const local_params *p, const cnx_args *args, const window_t *w, cnx_worker *worker, int64_t oc,
                        int64_t cols) noexcept nogil:
    # diff_weights of a panel of one pixel, from diff_dst packed in scratch
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *diff_weights = &args.dst[0]
    cdef int64_t kh, kw, zero = 0
    cdef cnx_gemm g
    plain_gemm(&g, p.nv)
    g.rows = w.run * src.shape[3]
    g.cols = cols
    g.n_seg = 1
    g.seg_len = src.shape[0]
    g.a_seg = &zero
    g.a_row = 1
    g.a_k = src.stride[0]
    g.b = <const float *>worker.scratch
    g.c_row = diff_weights.stride[2]
    for kh in range(w.kh0, w.kh1):
        kw = w.kw0
        while kw < w.kw1:
            g.a = pixel_at(src, 0, w.ih0 + kh, w.iw0 + kw, 0)
            g.c = weights_at(diff_weights, p, w, kh, kw, src.shape[3]) + oc
            worker.simd.gemm_outer(&g)
            kw += w.run


cdef locally_connected_params locally_connected_zero
cdef locally_connected_backward_data_params backward_data_zero
cdef locally_connected_backward_weights_params backward_weights_zero

KERNELS = {
    "locally_connected": kernel("locally_connected", locally_connected),
    "locally_connected_backward_data": kernel("locally_connected_backward_data", locally_connected_backward_data),
    "locally_connected_backward_weights": kernel("locally_connected_backward_weights",
                                                 locally_connected_backward_weights),
}
PARAMS = {
    "locally_connected": fields(locally_connected_zero),
    "locally_connected_backward_data": fields(backward_data_zero),
    "locally_connected_backward_weights": fields(backward_weights_zero),
}
