"""Optimizer steps: parameters and their states change in place.

Design
    Memory-bound: one pass over weights, states and gradient, cut into tiles. What changes from step to step (learning
    rate, bias corrections) arrives in a small array, `hyper`, so that a schedule needs no new plan.
"""
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_tensor, cnx_worker

include "table.pxi"
include "rows.pxi"

cdef enum:
    PIECE = 256     # weights that share the stand-in velocity of a step without momentum


cdef struct sgd_params:
    int64_t rows, chunk
    double momentum, decay
    int64_t nesterov


cdef int sgd(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate); dst: weights, and the velocity where there is momentum
    cdef const sgd_params *p = <const sgd_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef float rate = (<const float *>args.src[1].data)[0]
    cdef int64_t row, i
    cdef float[PIECE] still
    cdef float *w
    cdef const float *dw
    for row in range(r.first_row, r.last_row):
        w, dw = row_at(&args.dst[0], row, r.first), row_at(&args.src[0], row, r.first)
        if args.n_dst > 1:
            worker.simd.sgd(w, row_at(&args.dst[1], row, r.first), dw, r.count, rate, <float>p.momentum, <float>p.decay,
                            <int32_t>p.nesterov)
            continue
        i = 0
        while i < r.count:
            memset(still, 0, sizeof(still))
            worker.simd.sgd(w + i, still, dw + i, min(<int64_t>PIECE, r.count - i), rate, 0, <float>p.decay, 0)
            i += PIECE
    return CNX_OK


cdef struct adam_params:
    int64_t rows, chunk
    double beta_1, beta_2


cdef int adam(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate and epsilon with their bias corrections, decay); dst: weights, first and second moment
    cdef const adam_params *p = <const adam_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef const float *hyper = <const float *>args.src[1].data
    cdef const cnx_tensor *dst = args.dst
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        worker.simd.adam(row_at(&dst[0], row, r.first), row_at(&dst[1], row, r.first), row_at(&dst[2], row, r.first),
                         row_at(&args.src[0], row, r.first), r.count, hyper[0], p.beta_1, p.beta_2,
                         hyper[1], hyper[2])
    return CNX_OK


cdef struct rmsprop_params:
    int64_t rows, chunk
    double keep, take, momentum, epsilon, decay


cdef int rmsprop(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gradient, hyper (rate); dst: weights, squared gradients, and the velocity where there is momentum
    cdef const rmsprop_params *p = <const rmsprop_params *>args.params
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>p, worker.tile)
    cdef float rate = (<const float *>args.src[1].data)[0]
    cdef const cnx_tensor *dst = args.dst
    cdef float *velocity
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        velocity = row_at(&dst[2], row, r.first) if args.n_dst > 2 else NULL
        worker.simd.rmsprop(row_at(&dst[0], row, r.first), row_at(&dst[1], row, r.first), velocity,
                            row_at(&args.src[0], row, r.first), r.count, rate, p.keep, p.take, <float>p.momentum,
                            <float>p.epsilon, <float>p.decay)
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
    for row in range(r.first_row, r.last_row):
        direction = row_at(&dst[0], row, r.first)
        # weights of 0 that take a step of Adam backwards are Adam's step
        memset(direction, 0, r.count * sizeof(float))
        worker.simd.adam(direction, row_at(&dst[1], row, r.first), row_at(&dst[2], row, r.first),
                         row_at(&args.src[0], row, r.first), r.count, -hyper[1], p.beta_1, p.beta_2, hyper[2], 0)
        worker.simd.axpy(<float>p.decay, row_at(&args.src[2], row, r.first), direction, r.count)
    return CNX_OK


cdef int lamb(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: direction, hyper (rate), sums of the squares of the weights and of the direction; dst: weights
    cdef row_range r = tile_rows(&args.src[0], <const rows_params *>args.params, worker.tile)
    cdef float weights_2 = (<const float *>args.src[2].data)[0], direction_2 = (<const float *>args.src[3].data)[0]
    cdef double rate = (<const float *>args.src[1].data)[0]
    cdef int64_t row
    if weights_2 > 0 and direction_2 > 0:
        rate *= sqrt(<double>weights_2 / direction_2)
    for row in range(r.first_row, r.last_row):
        worker.simd.axpy(<float>-rate, row_at(&args.src[0], row, r.first), row_at(&args.dst[0], row, r.first), r.count)
    return CNX_OK


cdef sgd_params sgd_zero
cdef adam_params adam_zero
cdef rmsprop_params rmsprop_zero
cdef lamb_direction_params lamb_direction_zero
cdef rows_params lamb_zero

KERNELS = {
    "sgd": kernel("sgd", sgd),
    "adam": kernel("adam", adam),
    "rmsprop": kernel("rmsprop", rmsprop),
    "lamb_direction": kernel("lamb_direction", lamb_direction),
    "lamb": kernel("lamb", lamb),
}
PARAMS = {
    "sgd": fields(sgd_zero),
    "adam": fields(adam_zero),
    "rmsprop": fields(rmsprop_zero),
    "lamb_direction": fields(lamb_direction_zero),
    "lamb": fields(lamb_zero),
}
