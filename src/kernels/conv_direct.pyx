"""Direct convolution: a weighted sum of shifted images, one register tile of pixels x output channels at a time.

Design
    A convolution is a list of taps (dh, dw): output pixel (oh, ow) adds source pixel (oh * SH + dh, ow * SW + dw) times the
    tap's weights. Forward, dense, and backward-data (rotated weights; one tap list per output phase when strided) are
    all this one kernel with other tap lists.
    Loop order: tile (rows x columns of one image, some panels of output channels) -> panel -> block of K -> output row ->
    register tiles along the row. A panel is nv vectors of output channels; its weights are packed in the order in which
    the tile reads them.
    Borders: a tile whose taps can leave the image first copies the source rows it needs, with their zero border, into
    its worker's scratch (each copied vector then serves KH * KW * OC FMAs, so this costs below 1 %); the register tile
    never sees a border. The copy also frees the tile from power-of-two strides.
    Segments: where a window's row is contiguous (dilation 1, dense pixels) its KW * IC values are one segment of K; a
    3-channel first layer therefore needs no im2col.
    K is cut so that a panel's block stays in L2 while the rows of the tile pass over it; in between, the sums wait in dst.
    Backward-weights is the same walk with the product turned: rows of C are (tap, ic), K is the pixels of a block. The
    blocks of all images are dealt to a number of shards that the shapes fix; their sums are added in shard order.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_ADD, CNX_OK, cnx_args, cnx_gemm, cnx_simd, cnx_tensor, cnx_worker

include "table.pxi"
include "panels.pxi"

cdef enum:
    STRIP_ROWS = 48     # times 4 vectors of 16 floats: 12 KB


cdef struct conv_direct_params:
    int64_t G, IC, OC               # channels per group
    int64_t SH, SW
    int64_t n_seg, seg_len          # K = n_seg * seg_len; table src[2]: n_seg rows of (dh, dw, channel offset)
    int64_t seg_block               # segments per block of K
    int64_t nv, panels              # vectors per panel, panels per group
    int64_t rows, cols              # output rows and columns of a tile
    int64_t panel_block             # panels of a tile, over all groups
    int64_t image_step              # from the weights of an image to those of the next, or 0
    int64_t copy                    # 1: the source window goes through scratch
    int64_t dh_min, dw_min          # first source row and column of a window, relative to oh * SH, ow * SW
    int64_t copy_rows, copy_cols    # extent of the copied window of a full tile
    int64_t copy_ld, copy_row       # its pixel and row strides
    int64_t has_bias, has_add
    int64_t post_op                 # unary function after low/high, or -1
    double low, high
    double post_0, post_1


cdef inline int64_t imin(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t imax(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


cdef void copy_window(const cnx_tensor *src, int64_t n, int64_t ih0, int64_t iw0, int64_t c0, int64_t channels,
                      int64_t rows, int64_t cols, float *window, int64_t ld, int64_t row_step) noexcept nogil:
    # rows x cols pixels from (ih0, iw0) on, zero outside the image
    cdef int64_t r, i, ih
    cdef int64_t left = imin(imax(-iw0, 0), cols)
    cdef int64_t right = imax(imin(src.shape[2] - iw0, cols), left)
    cdef const float *from_
    cdef float *to
    for r in range(rows):
        ih = ih0 + r
        to = window + r * row_step
        if ih < 0 or ih >= src.shape[1]:
            memset(to, 0, cols * ld * sizeof(float))
            continue
        memset(to, 0, left * ld * sizeof(float))
        memset(to + right * ld, 0, (cols - right) * ld * sizeof(float))
        from_ = <const float *>src.data + n * src.stride[0] + ih * src.stride[1] + iw0 * src.stride[2] + c0
        if ld == channels and src.stride[2] == channels:
            memcpy(to + left * ld, from_ + left * ld, (right - left) * ld * sizeof(float))
        else:
            for i in range(left, right):
                memcpy(to + i * ld, from_ + i * src.stride[2], channels * sizeof(float))


cdef int conv_direct(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    cdef const conv_direct_params *p = <const conv_direct_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const int64_t *table = <const int64_t *>args.src[2].data
    cdef const float *packed = <const float *>args.src[1].data
    cdef const float *bias = <const float *>args.src[3].data if p.has_bias else NULL
    cdef const cnx_tensor *add = &args.src[3 + p.has_bias] if p.has_add else NULL
    cdef int64_t N = dst.shape[0], OH = dst.shape[1], OW = dst.shape[2]
    cdef int64_t row_tiles = (OH + p.rows - 1) // p.rows, col_tiles = (OW + p.cols - 1) // p.cols
    cdef int64_t width = p.nv * worker.simd.vl
    cdef int64_t *seg = <int64_t *>worker.scratch
    cdef float *window = <float *>worker.scratch + 2 * ((p.n_seg + 7) // 8 * 8)
    cdef int64_t tile = worker.tile
    cdef int64_t ow0 = tile % col_tiles * p.cols
    tile //= col_tiles
    cdef int64_t oh0 = tile % row_tiles * p.rows
    tile //= row_tiles
    cdef int64_t n = tile % N
    cdef const float *weights = packed + n * p.image_step
    cdef int64_t first_panel = tile // N * p.panel_block
    cdef int64_t last_panel = imin(first_panel + p.panel_block, p.G * p.panels)
    cdef int64_t rows = imin(p.rows, OH - oh0), cols = imin(p.cols, OW - ow0)
    cdef int64_t pixel = p.copy_ld if p.copy else src.stride[2]
    cdef int64_t row = p.copy_row if p.copy else src.stride[1]
    cdef int64_t s, panel, group, group_in_window = -1, r, channel
    cdef const float *origin
    cdef cnx_gemm g

    for s in range(p.n_seg):
        seg[s] = (table[3 * s] - p.dh_min) * row + (table[3 * s + 1] - p.dw_min) * pixel + table[3 * s + 2]
    g.rows = cols
    g.seg_len = p.seg_len
    g.a_row = p.SW * pixel
    g.a_k = 1
    g.c_row = dst.stride[2]
    g.add_row = add.stride[2] if add != NULL else 0
    g.nv = <int32_t>p.nv
    for panel in range(first_panel, last_panel):
        group = panel // p.panels
        channel = group * p.OC + panel % p.panels * width
        if p.copy:
            if group != group_in_window:
                copy_window(src, n, oh0 * p.SH + p.dh_min, ow0 * p.SW + p.dw_min, group * p.IC, p.IC,
                            p.copy_rows - (p.rows - rows) * p.SH, p.copy_cols - (p.cols - cols) * p.SW,
                            window, p.copy_ld, p.copy_row)
                group_in_window = group
            origin = window
        else:
            origin = (<const float *>src.data + n * src.stride[0] + (oh0 * p.SH + p.dh_min) * row
                      + (ow0 * p.SW + p.dw_min) * pixel + group * p.IC)
        g.cols = imin(width, (group + 1) * p.OC - channel)
        s = 0
        while True:
            g.n_seg = imin(p.seg_block, p.n_seg - s)
            g.a_seg = seg + s
            g.b = weights + (panel * p.n_seg + s) * p.seg_len * width
            g.accumulate = s > 0
            if s + g.n_seg >= p.n_seg:
                g.bias = bias + panel * width if bias != NULL else NULL
                g.low = <float>p.low
                g.high = <float>p.high
            else:
                g.bias = NULL
                g.low = -INFINITY
                g.high = INFINITY
            for r in range(rows):
                g.a = origin + r * p.SH * row
                g.c = (<float *>dst.data + n * dst.stride[0] + (oh0 + r) * dst.stride[1] + ow0 * dst.stride[2] + channel)
                g.add = NULL
                if add != NULL and s + g.n_seg >= p.n_seg:
                    g.add = (<const float *>add.data + n * add.stride[0] + (oh0 + r) * add.stride[1]
                             + ow0 * add.stride[2] + channel)
                if p.post_op >= 0 and s + g.n_seg >= p.n_seg:
                    strips(p, worker, &g, cols)
                else:
                    worker.simd.gemm_rows(&g)
            s += g.n_seg
            if s >= p.n_seg:
                break
    return CNX_OK


cdef void strips(const conv_direct_params *p, cnx_worker *worker, cnx_gemm *g, int64_t rows) noexcept nogil:
    # Functions dearer than a clip are a pass of their own: over strips short enough for L1, of whole register tiles.
    cdef int64_t height = worker.simd.tile_rows[p.nv - 1], strip = STRIP_ROWS // height * height, first = 0
    cdef float[2] constants = [<float>p.post_0, <float>p.post_1]
    while first < rows:
        g.rows = imin(strip, rows - first)
        worker.simd.gemm_rows(g)
        worker.simd.unary_rows(<int32_t>p.post_op, g.c, g.c_row, g.c, g.c_row, g.rows, g.cols, constants)
        g.a += strip * g.a_row
        g.c += strip * g.c_row
        if g.add != NULL:
            g.add += strip * g.add_row
        first += strip
    g.rows = rows


cdef struct conv_pack_weights_params:
    int64_t G, K, OC                # per group: channels summed over, channels produced
    int64_t n_taps                  # table src[1]: n_taps rows of (kh, kw)
    int64_t nv, panels
    int64_t backward                # 1: weights are (KH, KW, OC, G * K), else (KH, KW, K, G * OC)
    int64_t has_bias
    int64_t has_sum                 # 1: a panel ends with the sum of its rows, finite only where all of them are


cdef int conv_pack_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # One tile is one panel: dst[0] is (G * panels, n_taps * K + has_sum, nv * vl), dst[1] the bias as (G * panels, nv * vl).
    cdef const conv_pack_weights_params *p = <const conv_pack_weights_params *>args.params
    cdef const cnx_tensor *weights = &args.src[0]
    cdef const int64_t *taps = <const int64_t *>args.src[1].data
    cdef int64_t width = p.nv * worker.simd.vl
    cdef int64_t group = worker.tile // p.panels, oc0 = worker.tile % p.panels * width
    cdef int64_t cols = imin(width, p.OC - oc0)
    cdef float *to = <float *>args.dst[0].data + worker.tile * (p.n_taps * p.K + p.has_sum) * width
    cdef float *end = to + p.n_taps * p.K * width
    cdef int64_t t
    for t in range(p.n_taps):
        pack_tap(weights, taps + 2 * t, p.backward, group * p.K if p.backward else 0, p.K,
                 oc0 if p.backward else group * p.OC + oc0, cols, to + t * p.K * width, width, worker.simd)
    if p.has_sum:
        memset(end, 0, width * sizeof(float))
        worker.simd.sum_rows(to, width, p.n_taps * p.K, end, width)
    if p.has_bias:
        pack_bias(&args.src[2], group * p.OC + oc0, cols, <float *>args.dst[1].data + worker.tile * width, width)
    return CNX_OK


cdef struct conv_backward_weights_params:
    int64_t G, IC, OC               # channels per group
    int64_t SH, SW
    int64_t n_seg, seg_len          # table src[2]: n_seg rows of (dh, dw, channel offset, first row of diff_weights)
    int64_t nv, panels
    int64_t rows, cols              # output rows and columns of a block
    int64_t panel_block             # panels of a tile, over all groups
    int64_t shards
    int64_t copy
    int64_t dh_min, dw_min
    int64_t copy_rows, copy_cols, copy_ld, copy_row


cdef int conv_backward_weights(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] diff_dst, dst[0] (shards, KH * KW * IC, G * OC), overwritten. A tile is a shard of some panels.
    cdef const conv_backward_weights_params *p = <const conv_backward_weights_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const cnx_tensor *diff_dst = &args.src[1]
    cdef int64_t N = diff_dst.shape[0], OH = diff_dst.shape[1], OW = diff_dst.shape[2]
    cdef int64_t row_tiles = (OH + p.rows - 1) // p.rows, col_tiles = (OW + p.cols - 1) // p.cols
    cdef int64_t blocks = N * row_tiles * col_tiles
    cdef int64_t shard = worker.tile % p.shards, first_panel = worker.tile // p.shards * p.panel_block
    cdef int64_t last_panel = imin(first_panel + p.panel_block, p.G * p.panels)
    cdef int64_t first = shard * blocks // p.shards, last = (shard + 1) * blocks // p.shards, block
    cdef float *diff_weights = <float *>args.dst[0].data + shard * args.dst[0].stride[0]
    cdef int64_t panel, n_rows = args.dst[0].shape[1], r
    for block in range(first, last):
        add_block(p, src, diff_dst, <const int64_t *>args.src[2].data, diff_weights, args.dst[0].stride[1], worker,
                  block // (row_tiles * col_tiles), block // col_tiles % row_tiles * p.rows, block % col_tiles * p.cols,
                  first_panel, last_panel, block > first)
    if last <= first:
        for panel in range(first_panel, last_panel):
            for r in range(n_rows):
                memset(diff_weights + r * args.dst[0].stride[1] + panel_channel(p, panel, worker.simd.vl), 0,
                       panel_cols(p, panel, worker.simd.vl) * sizeof(float))
    return CNX_OK


cdef inline int64_t panel_channel(const conv_backward_weights_params *p, int64_t panel, int64_t vl) noexcept nogil:
    return panel // p.panels * p.OC + panel % p.panels * p.nv * vl


cdef inline int64_t panel_cols(const conv_backward_weights_params *p, int64_t panel, int64_t vl) noexcept nogil:
    return imin(p.nv * vl, (panel // p.panels + 1) * p.OC - panel_channel(p, panel, vl))


cdef void add_block(const conv_backward_weights_params *p, const cnx_tensor *src, const cnx_tensor *diff_dst,
                    const int64_t *table, float *diff_weights, int64_t weights_row, cnx_worker *worker,
                    int64_t n, int64_t oh0, int64_t ow0, int64_t first_panel, int64_t last_panel,
                    bint accumulate) noexcept nogil:
    cdef int64_t rows = imin(p.rows, diff_dst.shape[1] - oh0), cols = imin(p.cols, diff_dst.shape[2] - ow0)
    cdef int64_t width = p.nv * worker.simd.vl
    cdef int64_t pixel = p.copy_ld if p.copy else src.stride[2]
    cdef int64_t row = p.copy_row if p.copy else src.stride[1]
    cdef int64_t *seg = <int64_t *>worker.scratch
    cdef float *diff = <float *>worker.scratch + 2 * ((p.rows + 7) // 8 * 8)
    cdef float *window = diff + p.rows * p.cols * width
    cdef int64_t r, panel, group, s, group_in_window = -1
    cdef const float *origin
    cdef cnx_gemm g
    for r in range(rows):
        seg[r] = r * p.SH * row
    g.rows = p.seg_len
    g.n_seg = rows
    g.seg_len = cols
    g.a_seg = seg
    g.a_k = p.SW * pixel
    g.a_row = 1
    g.b = diff
    g.c_row = weights_row
    g.bias = NULL
    g.add = NULL
    g.low = -INFINITY
    g.high = INFINITY
    g.nv = <int32_t>p.nv
    g.accumulate = accumulate
    for panel in range(first_panel, last_panel):
        group = panel // p.panels
        if p.copy:
            if group != group_in_window:
                copy_window(src, n, oh0 * p.SH + p.dh_min, ow0 * p.SW + p.dw_min, group * p.IC, p.IC,
                            p.copy_rows - (p.rows - rows) * p.SH, p.copy_cols - (p.cols - cols) * p.SW,
                            window, p.copy_ld, p.copy_row)
                group_in_window = group
            origin = window
        else:
            origin = (<const float *>src.data + n * src.stride[0] + (oh0 * p.SH + p.dh_min) * row
                      + (ow0 * p.SW + p.dw_min) * pixel + group * p.IC)
        g.cols = panel_cols(p, panel, worker.simd.vl)
        pack_block(diff_dst, n, oh0, ow0, panel_channel(p, panel, worker.simd.vl), rows, cols, g.cols, width, diff)
        for s in range(p.n_seg):
            g.a = origin + (table[4 * s] - p.dh_min) * row + (table[4 * s + 1] - p.dw_min) * pixel + table[4 * s + 2]
            g.c = diff_weights + table[4 * s + 3] * weights_row + panel_channel(p, panel, worker.simd.vl)
            worker.simd.gemm_outer(&g)


cdef void pack_block(const cnx_tensor *t, int64_t n, int64_t h0, int64_t w0, int64_t channel, int64_t rows, int64_t cols,
                     int64_t channels, int64_t width, float *to) noexcept nogil:
    # rows x cols pixels of `width` floats, the last of them zero where the channels end
    cdef int64_t r, i
    cdef const float *from_
    for r in range(rows):
        from_ = <const float *>t.data + n * t.stride[0] + (h0 + r) * t.stride[1] + w0 * t.stride[2] + channel
        for i in range(cols):
            memcpy(to, from_ + i * t.stride[2], channels * sizeof(float))
            memset(to + channels, 0, (width - channels) * sizeof(float))
            to += width


cdef struct sum_shards_params:
    int64_t count                   # elements of one shard
    int64_t shards
    int64_t chunk                   # elements of a tile


cdef int sum_shards(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst = sum of the shards of src in shard order; src[0] is (shards, count), both dense.
    cdef const sum_shards_params *p = <const sum_shards_params *>args.params
    cdef int64_t first = worker.tile * p.chunk
    cdef int64_t n = imin(p.chunk, p.count - first), s
    cdef const float *src = <const float *>args.src[0].data + first
    cdef float *dst = <float *>args.dst[0].data + first
    memcpy(dst, src, n * sizeof(float))
    for s in range(1, p.shards):
        worker.simd.binary(CNX_ADD, dst, 1, src + s * args.src[0].stride[0], 1, dst, n)
    return CNX_OK


cdef conv_direct_params conv_direct_zero
cdef conv_pack_weights_params conv_pack_weights_zero
cdef conv_backward_weights_params conv_backward_weights_zero
cdef sum_shards_params sum_shards_zero

KERNELS = {
    "conv_direct": kernel("conv_direct", conv_direct),
    "conv_pack_weights": kernel("conv_pack_weights", conv_pack_weights),
    "conv_backward_weights": kernel("conv_backward_weights", conv_backward_weights),
    "sum_shards": kernel("sum_shards", sum_shards),
}
PARAMS = {
    "conv_direct": fields(conv_direct_zero),
    "conv_pack_weights": fields(conv_pack_weights_zero),
    "conv_backward_weights": fields(conv_backward_weights_zero),
    "sum_shards": fields(sum_shards_zero),
}
