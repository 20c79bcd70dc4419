"""Optimizer steps: parameters and their states change in place.

Design
    Memory-bound: one pass over weights, states and gradient, cut into tiles; the average of the weights (`ema`, 0: none)
    follows while they are in the cache. What changes from step to step (learning rate, bias corrections) arrives in a small
    array, `hyper`, so that a schedule needs no new plan. Its first element says whether this step updates at all: not where
    gradients of several steps are added up first.
"""
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_tensor, cnx_worker

include "table.pxi"
include "rows.pxi"

cdef enum:
    PIECE = 256     # weights that share the stand-in velocity of a step without momentum


cdef inline void follow(const cnx_args *args, cnx_worker *worker, double ema, int64_t row, int64_t first,
                        int64_t count) noexcept nogil:
    # average = ema * average + (1 - ema) * weights; the average is the last of dst
    cdef float *average
    if ema != 0:
        average = row_at(&args.dst[args.n_dst - 1], row, first)
        worker.simd.axpy(<float>(ema - 1), average, average, count)
        worker.simd.axpy(<float>(1 - ema), row_at(&args.dst[0], row, first), average, count)


cdef struct accumulate_params:
    int64_t rows, chunk
    double scale


cdef int accumulate(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (whether to update); dst: the sum of gradients times scale where the step updates, and that sum
    cdef const accumulate_params *p = <const accumulate_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef int64_t row
    cdef float *mean
    cdef float *total
    for row in range(r.first_row, r.last_row):
        total = row_at(&args.dst[1], row, r.first)
        worker.simd.axpy(1, row_at(&args.src[0], row, r.first), total, r.count)
        if (<const float *>args.src[1].data)[0] != 0:
            mean = row_at(&args.dst[0], row, r.first)
            memset(mean, 0, r.count * sizeof(float))
            worker.simd.axpy(<float>p.scale, total, mean, r.count)
            memset(total, 0, r.count * sizeof(float))
    return CNX_OK


cdef struct sgd_params:
    int64_t rows, chunk
    double momentum, decay
    int64_t nesterov
    double ema


cdef int sgd(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate); dst: weights, the velocity where there is momentum, their average
    cdef const sgd_params *p = <const sgd_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef const float *hyper = <const float *>args.src[1].data
    cdef float rate = hyper[1]
    cdef int64_t row, i
    cdef float[PIECE] still
    cdef float *w
    cdef const float *dw
    if hyper[0] == 0:
        return CNX_OK
    for row in range(r.first_row, r.last_row):
        w, dw = row_at(&args.dst[0], row, r.first), row_at(&args.src[0], row, r.first)
        i = 0
        if p.momentum != 0:
            worker.simd.sgd(w, row_at(&args.dst[1], row, r.first), dw, r.count, rate, <float>p.momentum, <float>p.decay,
                            <int32_t>p.nesterov)
            i = r.count
        while i < r.count:
            memset(still, 0, sizeof(still))
            worker.simd.sgd(w + i, still, dw + i, min(<int64_t>PIECE, r.count - i), rate, 0, <float>p.decay, 0)
            i += PIECE
        follow(args, worker, p.ema, row, r.first, r.count)
    return CNX_OK


cdef struct adam_params:
    int64_t rows, chunk
    double beta_1, beta_2, ema


cdef int adam(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate and epsilon with their bias corrections, decay)
    # dst: weights, first and second moment, their average
    cdef const adam_params *p = <const adam_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef const float *hyper = <const float *>args.src[1].data
    cdef const cnx_tensor *dst = args.dst
    cdef int64_t row
    if hyper[0] == 0:
        return CNX_OK
    for row in range(r.first_row, r.last_row):
        worker.simd.adam(row_at(&dst[0], row, r.first), row_at(&dst[1], row, r.first), row_at(&dst[2], row, r.first),
                         row_at(&args.src[0], row, r.first), r.count, hyper[1], p.beta_1, p.beta_2,
                         hyper[2], hyper[3])
        follow(args, worker, p.ema, row, r.first, r.count)
    return CNX_OK


cdef struct rmsprop_params:
    int64_t rows, chunk
    double keep, take, momentum, epsilon, decay, ema


cdef int rmsprop(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate); dst: weights, squared gradients, the velocity where there is momentum, their average
    cdef const rmsprop_params *p = <const rmsprop_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef const float *hyper = <const float *>args.src[1].data
    cdef const cnx_tensor *dst = args.dst
    cdef float *velocity
    cdef int64_t row
    if hyper[0] == 0:
        return CNX_OK
    for row in range(r.first_row, r.last_row):
        velocity = row_at(&dst[2], row, r.first) if p.momentum != 0 else NULL
        worker.simd.rmsprop(row_at(&dst[0], row, r.first), row_at(&dst[1], row, r.first), velocity,
                            row_at(&args.src[0], row, r.first), r.count, hyper[1], p.keep, p.take, <float>p.momentum,
                            <float>p.epsilon, <float>p.decay)
        follow(args, worker, p.ema, row, r.first, r.count)
    return CNX_OK


cdef struct lamb_direction_params:
    int64_t rows, chunk
    double beta_1, beta_2, decay


cdef int lamb_direction(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate, then correction and epsilon as for adam), weights
    # dst: the direction, overwriting, first and second moment
    cdef const lamb_direction_params *p = <const lamb_direction_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef const float *hyper = <const float *>args.src[1].data
    cdef const cnx_tensor *dst = args.dst
    cdef int64_t row
    cdef float *direction
    if hyper[0] == 0:
        return CNX_OK
    for row in range(r.first_row, r.last_row):
        direction = row_at(&dst[0], row, r.first)
        # weights of 0 that take a step of Adam backwards are Adam's step
        memset(direction, 0, r.count * sizeof(float))
        worker.simd.adam(direction, row_at(&dst[1], row, r.first), row_at(&dst[2], row, r.first),
                         row_at(&args.src[0], row, r.first), r.count, -hyper[2], p.beta_1, p.beta_2, hyper[3], 0)
        worker.simd.axpy(<float>p.decay, row_at(&args.src[2], row, r.first), direction, r.count)
    return CNX_OK


cdef struct lamb_params:
    int64_t rows, chunk
    double ema


cdef int lamb(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: direction, hyper (rate), sums of the squares of the weights and of the direction; dst: weights, their average
    cdef const lamb_params *p = <const lamb_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef float weights_2 = (<const float *>args.src[2].data)[0], direction_2 = (<const float *>args.src[3].data)[0]
    cdef const float *hyper = <const float *>args.src[1].data
    cdef double rate = hyper[1]
    cdef int64_t row
    if hyper[0] == 0:
        return CNX_OK
    if weights_2 > 0 and direction_2 > 0:
        rate *= sqrt(<double>weights_2 / direction_2)
    for row in range(r.first_row, r.last_row):
        worker.simd.axpy(<float>-rate, row_at(&args.src[0], row, r.first), row_at(&args.dst[0], row, r.first), r.count)
        follow(args, worker, p.ema, row, r.first, r.count)
    return CNX_OK


cdef accumulate_params accumulate_zero
cdef sgd_params sgd_zero
cdef adam_params adam_zero
cdef rmsprop_params rmsprop_zero
cdef lamb_direction_params lamb_direction_zero
cdef lamb_params lamb_zero

KERNELS = {
    "accumulate": kernel("accumulate", accumulate),
    "sgd": kernel("sgd", sgd),
    "adam": kernel("adam", adam),
    "rmsprop": kernel("rmsprop", rmsprop),
    "lamb_direction": kernel("lamb_direction", lamb_direction),
    "lamb": kernel("lamb", lamb),
}
PARAMS = {
    "accumulate": fields(accumulate_zero),
    "sgd": fields(sgd_zero),
    "adam": fields(adam_zero),
    "rmsprop": fields(rmsprop_zero),
    "lamb_direction": fields(lamb_direction_zero),
    "lamb": fields(lamb_zero),
}
