"""Losses and their gradients: cross-entropy of class labels, labels as one-hot rows, squared error.

Design
    Rows of scores go through the softmax primitives; what follows touches one element of a row. A loss is summed in
    double, tile by tile; the tiles' sums are added in their order, so the result does not depend on the workers. The
    gradients recompute the softmax instead of keeping it: a row of scores is short against the network before it.
"""
from libc.math cimport log
from libc.stdint cimport int64_t
from libc.string cimport memset

from cnnext.plugin cimport (CNX_AFFINE, CNX_ERROR_LABEL, CNX_OK, CNX_SUBTRACT, cnx_args, cnx_simd, cnx_tensor,
                            cnx_worker)

include "table.pxi"
include "rows.pxi"

cdef enum:
    LANES = 16      # partial sums of squares, the same on every instruction-set level


cdef struct cross_entropy_params:
    int64_t rows                    # rows of a tile
    int64_t from_logits             # 1: scores are logits, 0: probabilities
    double smallest                 # the smallest probability whose logarithm is taken


cdef int cross_entropy(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] scores (..., K), src[1] labels (M,), dst[0] (tiles,): sum of -log(probability of the label) over a tile
    # scratch: one row
    cdef const cross_entropy_params *p = <const cross_entropy_params *>args.params
    cdef const cnx_tensor *scores = &args.src[0]
    cdef const int64_t *labels = <const int64_t *>args.src[1].data
    cdef int64_t classes = scores.shape[scores.rank - 1], row
    cdef float *log_p = <float *>worker.scratch
    cdef double total = 0, probability
    for row in range(worker.tile * p.rows, min((worker.tile + 1) * p.rows, n_rows(scores))):
        if labels[row] < 0 or labels[row] >= classes:
            return CNX_ERROR_LABEL
        if p.from_logits:
            worker.simd.log_softmax(row_at(scores, row, 0), log_p, classes)
            total -= log_p[labels[row]]
        else:
            probability = row_at(scores, row, labels[row])[0]
            total -= log(p.smallest if probability < p.smallest else probability)
    (<float *>args.dst[0].data)[worker.tile] = <float>total
    return CNX_OK


cdef int cross_entropy_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] scores (..., K), src[1] labels (M,), src[2] diff_dst (1,), dst[0] diff_src (..., K), overwriting:
    # (softmax - one_hot) * diff_dst / M, or -one_hot / probability * diff_dst / M
    cdef const cross_entropy_params *p = <const cross_entropy_params *>args.params
    cdef const cnx_tensor *scores = &args.src[0]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const int64_t *labels = <const int64_t *>args.src[1].data
    cdef int64_t classes = scores.shape[scores.rank - 1], total = n_rows(scores), row
    cdef float[2] affine
    cdef float probability
    cdef float *diff
    affine[0] = (<const float *>args.src[2].data)[0] / <float>total
    affine[1] = 0
    for row in range(worker.tile * p.rows, min((worker.tile + 1) * p.rows, total)):
        if labels[row] < 0 or labels[row] >= classes:
            return CNX_ERROR_LABEL
        diff = row_at(dst, row, 0)
        if p.from_logits:
            worker.simd.softmax(row_at(scores, row, 0), diff, classes)
            diff[labels[row]] -= 1
            worker.simd.unary(CNX_AFFINE, diff, diff, classes, affine)
        else:
            memset(diff, 0, classes * sizeof(float))
            probability = row_at(scores, row, labels[row])[0]
            if probability > p.smallest:
                diff[labels[row]] = -affine[0] / probability
    return CNX_OK


cdef struct one_hot_params:
    int64_t rows                    # rows of a tile


cdef int one_hot(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] labels (M,), dst[0] (..., K): 1 at the label of a row, else 0
    cdef const one_hot_params *p = <const one_hot_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const int64_t *labels = <const int64_t *>args.src[0].data
    cdef int64_t classes = dst.shape[dst.rank - 1], row
    cdef float *wanted
    for row in range(worker.tile * p.rows, min((worker.tile + 1) * p.rows, n_rows(dst))):
        if labels[row] < 0 or labels[row] >= classes:
            return CNX_ERROR_LABEL
        wanted = row_at(dst, row, 0)
        memset(wanted, 0, classes * sizeof(float))
        wanted[labels[row]] = 1
    return CNX_OK


cdef double sum_of_squares(const float *x, int64_t n, const cnx_simd *simd) noexcept nogil:
    cdef float[LANES] lanes
    cdef int64_t whole = n // LANES * LANES
    cdef double total = 0
    cdef int i
    memset(lanes, 0, sizeof(lanes))
    simd.dot_rows(x, LANES, x, LANES, n // LANES, lanes, LANES)
    simd.dot_rows(x + whole, LANES, x + whole, LANES, 1, lanes, n - whole)
    for i in range(LANES):
        total += lanes[i]
    return total


cdef int sum_squares(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] any values, dst[0] (tiles,): sum of the squares of a tile
    cdef const cnx_tensor *src = &args.src[0]
    cdef row_range r = tile_rows(src, <const rows_params *>args.params, worker.tile)
    cdef double total = 0
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        total += sum_of_squares(row_at(src, row, r.first), r.count, worker.simd)
    (<float *>args.dst[0].data)[worker.tile] = <float>total
    return CNX_OK


cdef int squared_error(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: prediction and target of one shape, dst[0] (tiles,): sum of squared differences of a tile; scratch: one chunk
    cdef const cnx_tensor *pred = &args.src[0]
    cdef const cnx_tensor *target = &args.src[1]
    cdef row_range r = tile_rows(pred, <const rows_params *>args.params, worker.tile)
    cdef float *difference = <float *>worker.scratch
    cdef double total = 0
    cdef int64_t row
    for row in range(r.first_row, r.last_row):
        worker.simd.binary(CNX_SUBTRACT, row_at(pred, row, r.first), 1, row_at(target, row, r.first), 1, difference,
                           r.count)
        total += sum_of_squares(difference, r.count, worker.simd)
    (<float *>args.dst[0].data)[worker.tile] = <float>total
    return CNX_OK


cdef int squared_error_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: prediction, target, diff_dst (1,); dst[0] = 2 (prediction - target) * diff_dst / elements, overwriting
    cdef const cnx_tensor *pred = &args.src[0]
    cdef const cnx_tensor *target = &args.src[1]
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef row_range r = tile_rows(pred, <const rows_params *>args.params, worker.tile)
    cdef float[2] affine
    cdef float *diff
    cdef int64_t row
    affine[0] = 2 * (<const float *>args.src[2].data)[0] / <float>(n_rows(pred) * pred.shape[pred.rank - 1])
    affine[1] = 0
    for row in range(r.first_row, r.last_row):
        diff = row_at(dst, row, r.first)
        worker.simd.binary(CNX_SUBTRACT, row_at(pred, row, r.first), 1, row_at(target, row, r.first), 1, diff, r.count)
        worker.simd.unary(CNX_AFFINE, diff, diff, r.count, affine)
    return CNX_OK


cdef struct sum_losses_params:
    double scale


cdef int sum_losses(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] (tiles,), dst[0] (1,): scale * sum, first tile first
    cdef const float *partial = <const float *>args.src[0].data
    cdef double total = 0
    cdef int64_t i
    for i in range(args.src[0].shape[0]):
        total += partial[i]
    (<float *>args.dst[0].data)[0] = <float>(total * (<const sum_losses_params *>args.params).scale)
    return CNX_OK


cdef cross_entropy_params cross_entropy_zero
cdef one_hot_params one_hot_zero
cdef rows_params squared_error_zero
cdef sum_losses_params sum_losses_zero

KERNELS = {
    "cross_entropy": kernel("cross_entropy", cross_entropy),
    "cross_entropy_backward": kernel("cross_entropy_backward", cross_entropy_backward),
    "one_hot": kernel("one_hot", one_hot),
    "sum_squares": kernel("sum_squares", sum_squares),
    "squared_error": kernel("squared_error", squared_error),
    "squared_error_backward": kernel("squared_error_backward", squared_error_backward),
    "sum_losses": kernel("sum_losses", sum_losses),
}
PARAMS = {
    "cross_entropy": fields(cross_entropy_zero),
    "cross_entropy_backward": fields(cross_entropy_zero),
    "one_hot": fields(one_hot_zero),
    "sum_squares": fields(squared_error_zero),
    "squared_error": fields(squared_error_zero),
    "squared_error_backward": fields(squared_error_zero),
    "sum_losses": fields(sum_losses_zero),
}
