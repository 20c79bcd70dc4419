"""Winograd's convolutions F(2x2, 3x3) and F(4x4, 3x3): windows of 3 x 3 pixels at stride 1 with fewer multiplications.

Design
    The result is cut into tiles of m x m pixels. With P = (m + 2)^2 points, each tile is (transforms: simd/winograd.inc.c)
        V = B^T d B            its (m + 2)^2 source pixels, channel by channel
        M[p] = V[p] U[p]       for each point p a product over the channels; U = G g G^T, made once from the weights
        Y = A^T M A            its m x m result pixels, with the whole epilogue
    so a pixel costs P / m^2 multiplications a channel pair instead of 9: 2.25 for m = 4, 4 for m = 2.
    Groups: tiles are taken in groups, rows of the P matrix products: V is (P, tiles, IC), M (P, tiles, one panel), sized so
    that both stay in L2, in the worker's scratch. Consecutive tiles form a group, over rows and images, so few are ragged.
    Loop order: group -> source transform -> panel of output channels -> points -> register tiles of the product; then the
    panel's result transform, from L2 straight to dst. A panel's U is contiguous, (P, IC, nv * vl): it streams.
    Few tiles and many channels (maps of 14 x 14, 7 x 7): groups alone would not keep the workers busy, and each would stream
    all weights. Then conv_winograd_src makes V once, in the arena, and a tile of work is a group and one panel.
    Borders: pixels outside the image are pointers to a row of zeros; of ragged tiles only the part inside is written.
    Backward-weights is the adjoint: dU[p] = sum over tiles of V[p]^T (A dY A^T)[p], then G^T dU G. A tile of work is a block
    of input channels and a panel of output channels for a shard of the groups: its dU stays in L2, in scratch, over all its
    groups, and only the nine taps leave it. The shards, fixed by the shapes, are added in their order, as the direct
    kernel's.
    Steps between the points are odd multiples of a cache line, so that the P rows of a tile fall into different sets of L1.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_gemm, cnx_simd, cnx_tensor, cnx_winograd, cnx_worker

include "table.pxi"
include "panels.pxi"


cdef struct winograd_source:        # how the parameter structs of the kernels that read the source begin
    int64_t m                       # rows and columns of a tile's result
    int64_t IC
    int64_t dh, dw                  # first source row and column of a window, relative to its result
    int64_t rows, cols              # tiles of an image
    int64_t tiles                   # of all images
    int64_t group                   # tiles of a group
    int64_t src_ld, src_step        # V: channels with their padding; elements between points


cdef inline int64_t imin(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef void transform_source(const winograd_source *p, const cnx_tensor *src, cnx_worker *worker, const float *zeros,
                           int64_t tile, int64_t channel, int64_t channels, float *to) noexcept nogil:
    cdef const float *pixel[36]
    cdef const float *image = <const float *>src.data + tile // (p.rows * p.cols) * src.stride[0] + channel
    cdef int64_t size = p.m + 2, i, j, ih, iw
    cdef int64_t ih0 = tile // p.cols % p.rows * p.m + p.dh, iw0 = tile % p.cols * p.m + p.dw
    for i in range(size):
        ih = ih0 + i
        for j in range(size):
            iw = iw0 + j
            if 0 <= ih < src.shape[1] and 0 <= iw < src.shape[2]:
                pixel[i * size + j] = image + ih * src.stride[1] + iw * src.stride[2]
            else:
                pixel[i * size + j] = zeros
    worker.simd.winograd_src(<int32_t>p.m, pixel, to, p.src_step, channels)


cdef struct conv_winograd_src_params:
    int64_t m, IC, dh, dw, rows, cols, tiles, group, src_ld, src_step   # winograd_source
    int64_t chunk                   # tiles of one piece of work


cdef int conv_winograd_src(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst[0] is V, (groups, P * src_step)
    cdef const conv_winograd_src_params *p = <const conv_winograd_src_params *>args.params
    cdef float *zeros = <float *>worker.scratch
    cdef int64_t first = worker.tile * p.chunk, tile
    memset(zeros, 0, p.src_ld * sizeof(float))
    for tile in range(first, imin(first + p.chunk, p.tiles)):
        transform_source(<const winograd_source *>p, &args.src[0], worker, zeros, tile, 0, p.IC,
                         <float *>args.dst[0].data + tile // p.group * args.dst[0].stride[0] + tile % p.group * p.src_ld)
    return CNX_OK


cdef struct conv_winograd_params:
    int64_t m, IC, dh, dw, rows, cols, tiles, group, src_ld, src_step   # winograd_source
    int64_t transformed             # 1: src[0] is V
    int64_t OC
    int64_t nv, panels              # vectors of a panel
    int64_t panel_block             # panels of one piece of work
    int64_t weights_step            # U: elements between points
    int64_t dst_step                # M: likewise
    int64_t has_bias, has_add
    int64_t post_op                 # unary function after low/high, or -1
    double low, high
    double post_0, post_1


cdef int conv_winograd(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] the source, or V; src[1] U, (panels, P * weights_step); then bias and what is added
    cdef const conv_winograd_params *p = <const conv_winograd_params *>args.params
    cdef const winograd_source *s = <const winograd_source *>p
    cdef int64_t groups = (p.tiles + p.group - 1) // p.group
    cdef int64_t group = worker.tile % groups
    cdef int64_t first = group * p.group, count = imin(p.group, p.tiles - first)
    cdef int64_t first_panel = worker.tile // groups * p.panel_block, panel, i
    cdef float *products = <float *>worker.scratch
    cdef float *points = products + (p.m + 2) * (p.m + 2) * p.dst_step
    cdef float *zeros = points + (p.m + 2) * (p.m + 2) * p.src_step
    if p.transformed:
        points = <float *>args.src[0].data + group * args.src[0].stride[0]
    else:
        memset(zeros, 0, p.src_ld * sizeof(float))
        for i in range(count):
            transform_source(s, &args.src[0], worker, zeros, first + i, 0, p.IC, points + i * p.src_ld)
    for panel in range(first_panel, imin(first_panel + p.panel_block, p.panels)):
        multiply_points(p, args, worker, points, count, panel, products)
        for i in range(count):
            transform_result(p, args, worker, products + i * p.nv * worker.simd.vl, first + i, panel)
    return CNX_OK


cdef inline cnx_gemm product_of(int64_t rows, int64_t depth, int64_t nv, int64_t vl, const int64_t *origin) noexcept nogil:
    # what the products of all points have in common: one segment, a dense panel, nothing that follows
    cdef cnx_gemm g
    g.rows = rows
    g.cols = nv * vl
    g.n_seg = 1
    g.seg_len = depth
    g.a_seg = origin
    g.c_row = nv * vl
    g.a = g.b = g.bias = g.add = NULL
    g.c = NULL
    g.a_row = g.a_k = g.add_row = 0
    g.low = -INFINITY
    g.high = INFINITY
    g.nv = <int32_t>nv
    g.accumulate = 0
    return g


cdef void multiply_points(const conv_winograd_params *p, const cnx_args *args, cnx_worker *worker, const float *points,
                          int64_t count, int64_t panel, float *products) noexcept nogil:
    cdef int64_t n_points = (p.m + 2) * (p.m + 2), zero = 0, i
    cdef cnx_gemm g = product_of(count, p.IC, p.nv, worker.simd.vl, &zero)
    g.a_row = p.src_ld
    g.a_k = 1
    for i in range(n_points):
        g.a = points + i * p.src_step
        g.b = <const float *>args.src[1].data + (panel * n_points + i) * p.weights_step
        g.c = products + i * p.dst_step
        worker.simd.gemm_rows(&g)


cdef void transform_result(const conv_winograd_params *p, const cnx_args *args, cnx_worker *worker, const float *products,
                           int64_t tile, int64_t panel) noexcept nogil:
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const cnx_tensor *add = &args.src[2 + p.has_bias]
    cdef int64_t width = p.nv * worker.simd.vl, channel = panel * width
    cdef int64_t n = tile // (p.rows * p.cols), oh = tile // p.cols % p.rows * p.m, ow = tile % p.cols * p.m
    cdef cnx_winograd w
    w.m = <int32_t>p.m
    w.rows = imin(p.m, dst.shape[1] - oh)
    w.cols = imin(p.m, dst.shape[2] - ow)
    w.channels = imin(width, p.OC - channel)
    w.src = products
    w.src_step = p.dst_step
    w.dst = <float *>dst.data + n * dst.stride[0] + oh * dst.stride[1] + ow * dst.stride[2] + channel
    w.dst_row = dst.stride[1]
    w.dst_pixel = dst.stride[2]
    w.bias = <const float *>args.src[2].data + channel if p.has_bias else NULL
    w.add = NULL
    if p.has_add:
        w.add = <const float *>add.data + n * add.stride[0] + oh * add.stride[1] + ow * add.stride[2] + channel
        w.add_row = add.stride[1]
        w.add_pixel = add.stride[2]
    w.low = <float>p.low
    w.high = <float>p.high
    worker.simd.winograd_dst(&w)
    if p.post_op >= 0:
        finish_tile(p, worker, &w)


cdef void finish_tile(const conv_winograd_params *p, cnx_worker *worker, const cnx_winograd *w) noexcept nogil:
    # Functions dearer than a clip: a pass of their own over the tile, which is still in L1.
    cdef float[2] constants
    cdef int64_t i, j
    cdef float *y
    constants[0] = <float>p.post_0
    constants[1] = <float>p.post_1
    for i in range(w.rows):
        for j in range(w.cols):
            y = w.dst + i * w.dst_row + j * w.dst_pixel
            worker.simd.unary(<int32_t>p.post_op, y, y, w.channels, constants)


cdef struct conv_winograd_weights_params:
    int64_t m, IC
    int64_t nv
    int64_t weights_step
    int64_t chunk                   # input channels of one piece of work
    int64_t OC
    int64_t backward                # 1: weights are (3, 3, OC, IC), else (3, 3, IC, OC)
    int64_t has_bias


cdef int conv_winograd_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # From the weights, with table src[1] of 9 rows (kh, kw), to U; the bias src[2] to panels dst[1] (panels, nv * vl).
    # A tile is a chunk of a panel. Where its rows lie as the transform wants them, it reads the weights themselves.
    cdef const conv_winograd_weights_params *p = <const conv_winograd_weights_params *>args.params
    cdef const cnx_tensor *weights = &args.src[0]
    cdef const int64_t *taps = <const int64_t *>args.src[1].data
    cdef int64_t width = p.nv * worker.simd.vl, chunks = (p.IC + p.chunk - 1) // p.chunk
    cdef int64_t panel = worker.tile // chunks, first = worker.tile % chunks * p.chunk, rows = imin(p.chunk, p.IC - first)
    cdef int64_t oc0 = panel * width, cols = imin(width, p.OC - oc0), step = tap_step(weights, taps), row = weights.stride[2]
    cdef float *points = (<float *>args.dst[0].data + panel * (p.m + 2) * (p.m + 2) * p.weights_step + first * width)
    cdef float *packed = <float *>worker.scratch
    cdef const float *from_ = (<const float *>weights.data + taps[0] * weights.stride[0] + taps[1] * weights.stride[1]
                               + first * row + oc0)
    cdef int64_t t, k
    if p.backward or cols < width or step == 0:
        for t in range(9):
            pack_tap(weights, taps + 2 * t, p.backward, first, rows, oc0, cols, packed + t * rows * width, width,
                     worker.simd)
        from_, step, row = packed, rows * width, width
    for k in range(rows):
        worker.simd.winograd_weights(<int32_t>p.m, from_ + k * row, step, points + k * width, p.weights_step, width)
    if p.has_bias and first == 0:
        pack_bias(&args.src[2], oc0, cols, <float *>args.dst[1].data + panel * width, width)
    return CNX_OK


cdef int64_t tap_step(const cnx_tensor *weights, const int64_t *taps) noexcept nogil:
    # how far each tap is from the one before; 0 if not all are alike
    cdef int64_t t, step = 0, found
    for t in range(8):
        found = ((taps[2 * t + 2] - taps[2 * t]) * weights.stride[0]
                 + (taps[2 * t + 3] - taps[2 * t + 1]) * weights.stride[1])
        if t > 0 and found != step:
            return 0
        step = found
    return step


cdef struct conv_winograd_backward_weights_params:
    int64_t m, IC, dh, dw, rows, cols, tiles, group, src_ld, src_step   # winograd_source; src_ld of a block of channels
    int64_t OC
    int64_t nv, panels              # vectors of a panel
    int64_t channel_block           # input channels of one piece of work
    int64_t shards
    int64_t diff_step               # A dY A^T of a group: elements between points
    int64_t weights_step            # dU: likewise


cdef int conv_winograd_backward_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] diff_dst, dst[0] (shards, 9 * IC, OC), overwritten.
    cdef const conv_winograd_backward_weights_params *p = <const conv_winograd_backward_weights_params *>args.params
    cdef int64_t width = p.nv * worker.simd.vl, n_points = (p.m + 2) * (p.m + 2)
    cdef int64_t groups = (p.tiles + p.group - 1) // p.group
    cdef int64_t shard = worker.tile % p.shards, panel = worker.tile // p.shards % p.panels
    cdef int64_t channel = worker.tile // p.shards // p.panels * p.channel_block
    cdef int64_t channels = imin(p.channel_block, p.IC - channel), cols = imin(width, p.OC - panel * width)
    cdef int64_t first = shard * groups // p.shards, last = (shard + 1) * groups // p.shards, group, i, count
    cdef float *sums = <float *>worker.scratch
    cdef float *points = sums + n_points * p.weights_step
    cdef float *diff = points + n_points * p.src_step
    cdef float *zeros = diff + n_points * p.diff_step
    cdef float *dst = <float *>args.dst[0].data + shard * args.dst[0].stride[0] + panel * width
    memset(zeros, 0, (p.src_ld if p.src_ld > width else width) * sizeof(float))
    for group in range(first, last):
        count = imin(p.group, p.tiles - group * p.group)
        for i in range(count):
            transform_source(<const winograd_source *>p, &args.src[0], worker, zeros, group * p.group + i, channel, channels,
                             points + i * p.src_ld)
            transform_diff(p, &args.src[1], worker, zeros, group * p.group + i, panel * width, cols, diff + i * width)
        add_products(p, worker, points, diff, sums, count, channels, group > first)
    for i in range(channels):
        worker.simd.winograd_diff_weights(<int32_t>p.m, sums + i * width, p.weights_step,
                                          dst + (channel + i) * args.dst[0].stride[1], p.IC * args.dst[0].stride[1], cols)
    return CNX_OK


cdef void transform_diff(const conv_winograd_backward_weights_params *p, const cnx_tensor *diff_dst, cnx_worker *worker,
                         const float *zeros, int64_t tile, int64_t channel, int64_t channels, float *to) noexcept nogil:
    cdef const float *pixel[16]
    cdef const float *image = (<const float *>diff_dst.data + tile // (p.rows * p.cols) * diff_dst.stride[0] + channel)
    cdef int64_t oh0 = tile // p.cols % p.rows * p.m, ow0 = tile % p.cols * p.m, i, j
    for i in range(p.m):
        for j in range(p.m):
            if oh0 + i < diff_dst.shape[1] and ow0 + j < diff_dst.shape[2]:
                pixel[i * p.m + j] = image + (oh0 + i) * diff_dst.stride[1] + (ow0 + j) * diff_dst.stride[2]
            else:
                pixel[i * p.m + j] = zeros
    worker.simd.winograd_diff(<int32_t>p.m, pixel, to, p.diff_step, channels)


cdef void add_products(const conv_winograd_backward_weights_params *p, cnx_worker *worker, const float *points,
                       const float *diff, float *sums, int64_t count, int64_t channels, bint accumulate) noexcept nogil:
    cdef int64_t zero = 0, i
    cdef cnx_gemm g = product_of(channels, count, p.nv, worker.simd.vl, &zero)
    g.a_row = 1
    g.a_k = p.src_ld
    g.accumulate = accumulate
    for i in range((p.m + 2) * (p.m + 2)):
        g.a = points + i * p.src_step
        g.b = diff + i * p.diff_step
        g.c = sums + i * p.weights_step
        worker.simd.gemm_outer(&g)


cdef conv_winograd_params conv_winograd_zero
cdef conv_winograd_backward_weights_params conv_winograd_backward_weights_zero
cdef conv_winograd_src_params conv_winograd_src_zero
cdef conv_winograd_weights_params conv_winograd_weights_zero

KERNELS = {
    "conv_winograd": kernel("conv_winograd", conv_winograd),
    "conv_winograd_backward_weights": kernel("conv_winograd_backward_weights", conv_winograd_backward_weights),
    "conv_winograd_src": kernel("conv_winograd_src", conv_winograd_src),
    "conv_winograd_weights": kernel("conv_winograd_weights", conv_winograd_weights),
}
PARAMS = {
    "conv_winograd": fields(conv_winograd_zero),
    "conv_winograd_backward_weights": fields(conv_winograd_backward_weights_zero),
    "conv_winograd_src": fields(conv_winograd_src_zero),
    "conv_winograd_weights": fields(conv_winograd_weights_zero),
}
