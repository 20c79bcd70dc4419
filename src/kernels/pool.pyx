"""Pools: the largest, the mean and the norm of each window, and their gradients.

Design
    Loop order: tile (rows of one image, a block of channels) -> output row -> run of pixels with the same taps -> the
    taps primitive. Memory-bound, so a source row is read while the rows that share it are still in cache; nothing is
    copied.
    Averages: the divisor of a pixel is rows times columns that count, from two small tables, for every padding rule.
    Its gradient is a sum over the windows that see a source pixel: `pool` again, on diff_dst.
    Maximum and norm send their gradient back through the source's own values: the first maximum is found again, no map
    of indices is kept. One tile is one image and a block of channels, so no two tiles write the same element.
    Their gradients are added only where windows share pixels; elsewhere each is written once, and only what no window sees
    is cleared. The primitive gets a run of pixels, as in the forward pass. Batch 64, one core of Zen 4, us before and now:
    LeNet-5's first pool (28x28x6) 302, 99; VGG-11's of 32x32x64 3329, 2136, of 16x16x128 1626, 760; 3x3 at stride 2, whose
    windows share pixels (8 images of 56x56x64), 997, 755.
    Global mean: one image row at a time, then the sums of the rows, which keeps the rounding error of long sums small.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from cnnext.plugin cimport CNX_MULTIPLY, CNX_OK, cnx_args, cnx_taps, cnx_tensor, cnx_worker

include "table.pxi"
include "window.pxi"

cdef enum:
    POOL_MAX
    POOL_AVG
    POOL_LP


cdef struct pool_params:
    int64_t n_taps, SH, SW, first, last, rows, channels     # window_params
    int64_t op
    double power


cdef int pool(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] taps, for averages src[2] the divisors of OH rows, then of OW columns
    cdef const pool_params *p = <const pool_params *>args.params
    cdef taps_fn compute = worker.simd.taps_max
    cdef const int64_t *row_count = NULL
    cdef const int64_t *col_count = NULL
    if p.op == POOL_AVG:
        compute = worker.simd.taps_sum
        row_count = <const int64_t *>args.src[2].data
        col_count = row_count + args.dst[0].shape[1]
    elif p.op == POOL_LP:
        compute = worker.simd.taps_lp
    cdef window_walk w = walk_of(<const window_params *>p, &args.src[0], <const int64_t *>args.src[1].data,
                                 &args.dst[0], worker, compute)
    cdef cnx_taps t = taps_of(&w)
    cdef int64_t oh
    t.power = <float>p.power
    for oh in range(w.oh_begin, w.oh_end):
        walk_row(&w, &t, oh, row_count, col_count)
    return CNX_OK


cdef struct pool_backward_params:
    int64_t n_taps, SH, SW, first, last, rows, channels     # window_params; rows is OH
    int64_t reach                   # source rows from oh * SH on that output row oh can write
    int64_t shared                  # 1: some pixels lie in several windows, so gradients are added
    int64_t gaps                    # 1: some pixels lie in none
    int64_t op
    double power


ctypedef void (*taps_diff_fn)(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                              int64_t diff_src_step, const int64_t *diff_offset) noexcept nogil


cdef int pool_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] source, src[1] taps, src[2] dst of the forward pass, src[3] diff_dst; dst[0] diff_src, overwritten
    cdef const pool_backward_params *p = <const pool_backward_params *>args.params
    cdef const cnx_tensor *diff_dst = &args.src[3]
    cdef const cnx_tensor *diff_src = &args.dst[0]
    cdef taps_diff_fn send = worker.simd.taps_lp_diff if p.op == POOL_LP else worker.simd.taps_max_diff
    cdef window_walk w = walk_of(<const window_params *>p, &args.src[0], <const int64_t *>args.src[1].data,
                                 &args.src[2], worker, NULL)
    cdef bint same_offsets = diff_src.stride[1] == w.src.stride[1] and diff_src.stride[2] == w.src.stride[2]
    cdef int64_t *diff_offset = w.offset if same_offsets else w.weight + p.n_taps
    cdef cnx_taps t = taps_of(&w)
    cdef int64_t oh, ow, cleared = 0 if p.shared or p.gaps else diff_src.shape[1]
    t.power = <float>p.power
    t.accumulate = <int32_t>p.shared
    for oh in range(w.oh_end):
        clear_rows(diff_src, &w, &cleared, oh * p.SH + p.reach)
        ow = 0
        while ow < diff_dst.shape[2]:
            t.n_taps = select_taps(&w, w.src, oh, ow, w.offset)
            if not same_offsets:
                select_taps(&w, diff_src, oh, ow, diff_offset)
            t.count = pixels_alike(&w, ow)
            t.src = pixel_at(w.src, w.n, oh * p.SH, ow * p.SW, w.c0)
            t.dst = pixel_at(w.dst, w.n, oh, ow, w.c0)
            send(&t, pixel_at(diff_dst, w.n, oh, ow, w.c0), diff_dst.stride[2],
                 pixel_at(diff_src, w.n, oh * p.SH, ow * p.SW, w.c0), p.SW * diff_src.stride[2], diff_offset)
            ow += t.count
    clear_rows(diff_src, &w, &cleared, diff_src.shape[1])
    return CNX_OK


cdef void clear_rows(const cnx_tensor *image, const window_walk *w, int64_t *cleared, int64_t end) noexcept nogil:
    # zero the rows from `cleared` to `end`, shortly before they are written to
    cdef int64_t iw
    while cleared[0] < min(end, image.shape[1]):
        if w.channels == image.stride[2]:
            memset(pixel_at(image, w.n, cleared[0], 0, 0), 0, image.shape[2] * w.channels * sizeof(float))
        else:
            for iw in range(image.shape[2]):
                memset(pixel_at(image, w.n, cleared[0], iw, w.c0), 0, w.channels * sizeof(float))
        cleared[0] += 1


cdef struct global_avg_params:
    int64_t channels                # channels of a tile


cdef int global_avg(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] (N, H, W, C), dst[0] (N, 1, 1, C)
    cdef const global_avg_params *p = <const global_avg_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef int64_t blocks = (src.shape[3] + p.channels - 1) // p.channels
    cdef int64_t n = worker.tile // blocks, c0 = worker.tile % blocks * p.channels, h
    cdef int64_t channels = min(p.channels, src.shape[3] - c0)
    cdef float *mean = pixel_at(&args.dst[0], n, 0, 0, c0)
    cdef float *row = <float *>worker.scratch
    cdef float scale = <float>(1.0 / (src.shape[1] * src.shape[2]))
    memset(mean, 0, channels * sizeof(float))
    for h in range(src.shape[1]):
        memset(row, 0, channels * sizeof(float))
        worker.simd.sum_rows(pixel_at(src, n, h, 0, c0), src.stride[2], src.shape[2], row, channels)
        worker.simd.axpy(1, row, mean, channels)
    worker.simd.binary(CNX_MULTIPLY, mean, 1, &scale, 0, mean, channels)
    return CNX_OK


cdef pool_params pool_zero
cdef pool_backward_params pool_backward_zero
cdef global_avg_params global_avg_zero

OPS = {"max": POOL_MAX, "avg": POOL_AVG, "lp": POOL_LP}
KERNELS = {
    "pool": kernel("pool", pool),
    "pool_backward": kernel("pool_backward", pool_backward),
    "global_avg": kernel("global_avg", global_avg),
}
PARAMS = {
    "pool": fields(pool_zero),
    "pool_backward": fields(pool_backward_zero),
    "global_avg": fields(global_avg_zero),
}
