"""Normalization kernels.

Design
    Memory-bound: what counts is how often a tensor is read. Statistics per channel take one pass, in blocks that
    stay in L1, each with its own center (no naive sum of squares), joined in double precision (Chan, Golub, LeVeque
    1983). Shards of a fixed number of rows, joined in order, make the result independent of the workers; where they are
    whole images, the plan computes each right behind the kernel that makes the image (`Layer.images`). The backward pass
    computes what a clip behind the normalization let through again from the source, instead of reading its result.
"""
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_simd, cnx_tensor, cnx_worker

include "table.pxi"

cdef extern from "rows.h" nogil:
    ctypedef struct norm_run:
        float *at
        int64_t step

    ctypedef struct norm_channels:
        const float *center
        const float *scale
        const float *shift
        float low
        float high
        int64_t n

    ctypedef struct norm_row:
        const float *gamma
        const float *beta
        float low
        float high
        double epsilon
        int64_t n
        int32_t centered

    ctypedef struct norm_response:
        int64_t before
        int64_t after
        int64_t n
        float alpha
        float beta
        float bias

    ctypedef struct norm_rows:
        void (*deviations)(norm_run x, int64_t rows, const float *center, float *sum, float *squares,
                           int64_t n) noexcept nogil
        void (*normalize)(const norm_channels *p, norm_run x, norm_run add, norm_run y, int64_t rows) noexcept nogil
        void (*diff_sums)(const norm_channels *p, norm_run x, norm_run dy, int64_t rows, float *sum,
                          float *dots) noexcept nogil
        void (*diff)(const norm_channels *p, const float *slope, const float *level, norm_run x, norm_run dy,
                     norm_run dx, int64_t rows) noexcept nogil
        void (*row)(const norm_row *p, const float *x, const float *add, float *y) noexcept nogil
        void (*row_backward)(const norm_row *p, const float *x, const float *dy, float *dx, float *diff_gamma,
                             float *diff_beta) noexcept nogil
        void (*response)(const norm_response *p, const float *x, float *y, float *scratch) noexcept nogil
        void (*response_backward)(const norm_response *p, const float *x, const float *dy, float *dx,
                                  float *scratch) noexcept nogil

    const norm_rows *norm_rows_for(const char *level)


# Tensors of shape (S, rows on one axis or more, C): S sets of rows that are normalized separately.

cdef inline int64_t rows_of(const cnx_tensor *t) noexcept nogil:
    cdef int64_t n = 1
    cdef int i
    for i in range(1, t.rank - 1):
        n *= t.shape[i]
    return n


cdef inline norm_run run_at(const cnx_tensor *t, int64_t sample, int64_t row, int64_t *count) noexcept nogil:
    # address of a row of a sample; count is cut down to the rows that follow at one distance
    cdef int64_t offset = sample * t.stride[0]
    cdef int i
    cdef norm_run run
    run.step = t.stride[t.rank - 2]
    count[0] = min(count[0], t.shape[t.rank - 2] - row % t.shape[t.rank - 2])
    for i in range(t.rank - 2, 0, -1):
        offset += row % t.shape[i] * t.stride[i]
        row //= t.shape[i]
    run.at = <float *>t.data + offset
    return run


cdef inline const float *table_row(const cnx_tensor *t, int64_t sample, int64_t row) noexcept nogil:
    # a row of a table (S, rows, C)
    return <const float *>t.data + sample * t.stride[0] + row * t.stride[1]


cdef inline const float *vector(const cnx_tensor *t) noexcept nogil:
    return <const float *>t.data


cdef enum:
    BLOCK_FLOATS = 4096             # 16 KB: what is read twice stays in L1
    MOMENT_BLOCKS = 4               # of these at once: joining blocks in double costs more than reading one again from L2
    SUM_ROWS = 64                   # a block where nothing is read twice has this many rows at least
    CENTER = 0                      # rows of the statistics: the nearest float to the mean,
    REST = 1                        # what is left of the mean,
    INVERSE = 2                     # 1 / sqrt(variance + epsilon),
    VARIANCE = 3


cdef inline int64_t block_rows(int64_t channels) noexcept nogil:
    # a long sum is one of short ones: its error grows with the root of the rows
    return max(<int64_t>4, BLOCK_FLOATS // channels)


cdef struct moments_params:
    int64_t shards                  # of a sample
    int64_t shard_rows              # of each but the last


cdef void join_block(const float *center, const float *sums, const float *squares, int64_t rows, int64_t seen,
                     double *mean, double *deviation, int64_t n) noexcept nogil:
    # Chan, Golub, LeVeque: mean and squared deviations of two sets together
    cdef double share = <double>rows / (seen + rows), each = 1.0 / rows, before = seen * share, gap
    cdef int64_t c
    for c in range(n):
        gap = center[c] + sums[c] * each - mean[c]
        mean[c] += gap * share
        deviation[c] += (squares[c] - <double>sums[c] * sums[c] * each) + gap * gap * before


cdef int moments(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] (S, rows, C); dst[0] doubles (S * shards, 2, C): mean, sum of squared deviations; scratch: 3 rows
    cdef const moments_params *p = <const moments_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t n = src.shape[src.rank - 1], c, rows
    cdef int64_t sample = worker.tile // p.shards, first = worker.tile % p.shards * p.shard_rows, row = first
    cdef int64_t last = min(first + p.shard_rows, rows_of(src))
    cdef double *mean = <double *>args.dst[0].data + worker.tile * 2 * n
    cdef float *center = <float *>worker.scratch
    cdef float *sums = center + n
    cdef float *squares = sums + n
    cdef norm_run run
    memset(mean, 0, 2 * n * sizeof(double))
    while row < last:
        rows = min(last - row, MOMENT_BLOCKS * block_rows(n))
        run = run_at(src, sample, row, &rows)
        memset(center, 0, 3 * n * sizeof(float))
        worker.simd.sum_rows(run.at, run.step, rows, center, n)
        for c in range(n):
            center[c] = center[c] / rows
        simd.deviations(run, rows, center, sums, squares, n)
        join_block(center, sums, squares, rows, row - first, mean, mean + n, n)
        row += rows
    return CNX_OK


cdef struct statistics_params:
    int64_t shards
    int64_t shard_rows
    int64_t rows                    # of a sample
    int64_t group                   # channels that share their statistics
    double epsilon


cdef void join_shards(const double *part, const statistics_params *p, double *mean, double *deviation,
                      int64_t n) noexcept nogil:
    # as `join_block`, in order of the shards
    cdef int64_t shard, seen, count, c
    cdef double share, before, gap
    memset(mean, 0, n * sizeof(double))
    memset(deviation, 0, n * sizeof(double))
    for shard in range(p.shards):
        seen = shard * p.shard_rows
        count = min(p.shard_rows, p.rows - seen)
        share = <double>count / max(seen + count, <int64_t>1)
        before = seen * share
        for c in range(n):
            gap = part[c] - mean[c]
            mean[c] += gap * share
            deviation[c] += part[n + c] + gap * gap * before
        part += 2 * n


cdef int statistics(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] of `moments`; dst[0] (S, 4, C); a tile is a sample; scratch: 2 rows of doubles
    cdef const statistics_params *p = <const statistics_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef int64_t n = dst.shape[2], ld = dst.stride[1], first = 0, c
    cdef float *to = <float *>table_row(dst, worker.tile, 0)
    cdef double *mean = <double *>worker.scratch
    cdef double *deviation = mean + n
    cdef double joint, spread, gap
    join_shards(<const double *>args.src[0].data + worker.tile * p.shards * 2 * n, p, mean, deviation, n)
    while first < n:
        joint = 0
        spread = 0
        for c in range(first, first + p.group):
            gap = mean[c] - joint
            joint += gap / (c - first + 1)
            spread += deviation[c] + gap * gap * p.rows * (c - first) / (c - first + 1)
        spread /= max(p.rows * p.group, <int64_t>1)
        for c in range(first, first + p.group):
            to[CENTER * ld + c] = <float>joint
            to[REST * ld + c] = <float>(joint - <float>joint)
            to[INVERSE * ld + c] = <float>(1 / sqrt(spread + p.epsilon))
            to[VARIANCE * ld + c] = <float>spread
        first += p.group
    return CNX_OK


cdef struct moving_statistics_params:
    double epsilon


cdef int moving_statistics(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: moving mean, moving variance; dst[0] (1, 4, C)
    cdef const moving_statistics_params *p = <const moving_statistics_params *>args.params
    cdef float *to = <float *>args.dst[0].data
    cdef int64_t ld = args.dst[0].stride[1], c
    for c in range(args.dst[0].shape[2]):
        to[CENTER * ld + c] = vector(&args.src[0])[c]
        to[REST * ld + c] = 0
        to[INVERSE * ld + c] = <float>(1 / sqrt(vector(&args.src[1])[c] + p.epsilon))
        to[VARIANCE * ld + c] = vector(&args.src[1])[c]
    return CNX_OK


cdef int affine_terms(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: gamma, beta, moving mean, moving variance; dst: scale, shift with which the layer is x * scale + shift
    cdef const moving_statistics_params *p = <const moving_statistics_params *>args.params
    cdef double scale
    cdef int64_t c
    for c in range(args.dst[0].shape[0]):
        scale = vector(&args.src[0])[c] / sqrt(vector(&args.src[3])[c] + p.epsilon)
        (<float *>args.dst[0].data)[c] = <float>scale
        (<float *>args.dst[1].data)[c] = <float>(vector(&args.src[1])[c] - vector(&args.src[2])[c] * scale)
    return CNX_OK


cdef struct moving_update_params:
    double momentum


cdef int moving_update(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src[0] (1, 4, C); dst: moving mean, moving variance, in place
    cdef const moving_update_params *p = <const moving_update_params *>args.params
    cdef const cnx_tensor *now = &args.src[0]
    cdef float *mean = <float *>args.dst[0].data
    cdef float *variance = <float *>args.dst[1].data
    cdef double fresh = 1 - p.momentum
    cdef int64_t c
    for c in range(now.shape[2]):
        mean[c] = <float>(p.momentum * mean[c]
                          + fresh * (<double>table_row(now, 0, CENTER)[c] + table_row(now, 0, REST)[c]))
        variance[c] = <float>(p.momentum * variance[c] + fresh * table_row(now, 0, VARIANCE)[c])
    return CNX_OK


cdef struct normalize_params:
    int64_t rows                    # of a tile
    int64_t tiles                   # of a sample
    int64_t has_add, post_op        # post_op: -1 for none
    double low, high, post_0, post_1


cdef norm_channels channel_function(const cnx_tensor *stats, const float *gamma, const float *beta, int64_t sample,
                                    float *scratch, double low, double high) noexcept nogil:
    # (x - mean) * inverse * gamma + beta = (x - center) * scale + shift; scratch: 2 rows
    cdef const float *rest = table_row(stats, sample, REST)
    cdef const float *inverse = table_row(stats, sample, INVERSE)
    cdef norm_channels p
    cdef int64_t c
    p.n = stats.shape[2]
    for c in range(p.n):
        scratch[c] = inverse[c] * gamma[c]
        scratch[p.n + c] = beta[c] - rest[c] * scratch[c]
    p.center = table_row(stats, sample, CENTER)
    p.scale = scratch
    p.shift = scratch + p.n
    p.low = <float>low
    p.high = <float>high
    return p


cdef inline void apply_post(const cnx_simd *simd, int64_t op, double first, double second, norm_run y, int64_t rows,
                            int64_t n) noexcept nogil:
    cdef float[2] constants
    cdef int64_t r
    if op < 0:
        return
    constants[0] = <float>first
    constants[1] = <float>second
    for r in range(rows):
        simd.unary(<int32_t>op, y.at + r * y.step, y.at + r * y.step, n, constants)


cdef int normalize(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: x (S, rows, C), statistics (S, 4, C), gamma, beta, add like x if there is one; dst like x; scratch: 2 rows
    cdef const normalize_params *p = <const normalize_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t sample = worker.tile // p.tiles, row = worker.tile % p.tiles * p.rows, rows
    cdef int64_t last = min(row + p.rows, rows_of(dst))
    cdef norm_channels f = channel_function(&args.src[1], vector(&args.src[2]), vector(&args.src[3]), sample,
                                            <float *>worker.scratch, p.low, p.high)
    cdef norm_run x, y, add
    add.at = NULL
    add.step = 0
    while row < last:
        rows = last - row
        x = run_at(&args.src[0], sample, row, &rows)
        y = run_at(dst, sample, row, &rows)
        if p.has_add:
            add = run_at(&args.src[4], sample, row, &rows)
        simd.normalize(&f, x, add, y, rows)
        apply_post(worker.simd, p.post_op, p.post_0, p.post_1, y, rows, f.n)
        row += rows
    return CNX_OK


cdef struct diff_sums_params:
    int64_t shards, shard_rows
    double low, high


cdef int diff_sums(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: x, statistics, gamma, beta, dy; dst[0] doubles (S * shards, 2, C): sums of dy and of dy (x - center);
    # scratch: 4 rows
    cdef const diff_sums_params *p = <const diff_sums_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t n = src.shape[src.rank - 1], c, rows
    cdef int64_t sample = worker.tile // p.shards, row = worker.tile % p.shards * p.shard_rows
    cdef int64_t last = min(row + p.shard_rows, rows_of(src))
    cdef double *to = <double *>args.dst[0].data + worker.tile * 2 * n
    cdef float *sums = <float *>worker.scratch + 2 * n
    cdef norm_channels f = channel_function(&args.src[1], vector(&args.src[2]), vector(&args.src[3]), sample,
                                            <float *>worker.scratch, p.low, p.high)
    cdef norm_run x, dy
    memset(to, 0, 2 * n * sizeof(double))
    while row < last:
        rows = min(last - row, max(<int64_t>SUM_ROWS, block_rows(n)))
        x = run_at(src, sample, row, &rows)
        dy = run_at(&args.src[4], sample, row, &rows)
        memset(sums, 0, 2 * n * sizeof(float))
        simd.diff_sums(&f, x, dy, rows, sums, sums + n)
        for c in range(2 * n):
            to[c] += sums[c]
        row += rows
    return CNX_OK


cdef struct diff_terms_params:
    int64_t shards
    int64_t rows                    # of a sample
    int64_t group
    int64_t frozen                  # 1: the statistics are constants, so nothing flows through them


cdef void sample_sums(const cnx_args *args, const diff_terms_params *p, int64_t sample, double *sum,
                      double *dot) noexcept nogil:
    # of each channel of one sample: sum of dy, and of dy times the normalized x
    cdef const cnx_tensor *stats = &args.src[1]
    cdef int64_t n = stats.shape[2], shard, c
    cdef const double *part = <const double *>args.src[0].data + sample * p.shards * 2 * n
    cdef const float *rest = table_row(stats, sample, REST)
    cdef const float *inverse = table_row(stats, sample, INVERSE)
    memset(sum, 0, n * sizeof(double))
    memset(dot, 0, n * sizeof(double))
    for shard in range(p.shards):
        for c in range(n):
            sum[c] += part[c]
            dot[c] += part[n + c]
        part += 2 * n
    for c in range(n):
        dot[c] = (dot[c] - sum[c] * rest[c]) * inverse[c]


cdef void group_terms(const cnx_args *args, const diff_terms_params *p, int64_t sample, int64_t first, const double *sum,
                      const double *dot) noexcept nogil:
    # with z the normalized x and m the elements of a group:
    # dx = inverse (gamma dy - sum(gamma dy) / m - z sum(gamma dy z) / m) = scale dy - slope (x - center) - level
    cdef const cnx_tensor *stats = &args.src[1]
    cdef const float *gamma = vector(&args.src[2])
    cdef double all_sum = 0, all_dot = 0, elements = max(p.rows * p.group, <int64_t>1)
    cdef double inverse = table_row(stats, sample, INVERSE)[first], rest = table_row(stats, sample, REST)[first]
    cdef float *slope = <float *>table_row(&args.dst[0], sample, 0)
    cdef float *level = <float *>table_row(&args.dst[0], sample, 1)
    cdef int64_t c
    for c in range(first, first + p.group):
        all_sum += gamma[c] * sum[c]
        all_dot += gamma[c] * dot[c]
    if p.frozen:
        all_sum = 0
        all_dot = 0
    for c in range(first, first + p.group):
        slope[c] = <float>(inverse * inverse * all_dot / elements)
        level[c] = <float>(inverse * all_sum / elements - inverse * inverse * all_dot / elements * rest)


cdef int diff_terms(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: of `diff_sums`, statistics, gamma; dst: slope and level (S, 2, C), diff_gamma, diff_beta; one tile;
    # scratch: 4 rows of doubles
    cdef const diff_terms_params *p = <const diff_terms_params *>args.params
    cdef int64_t samples = args.src[1].shape[0], n = args.src[1].shape[2], sample, c
    cdef double *sum = <double *>worker.scratch
    cdef double *dot = sum + n
    cdef double *diff_gamma = dot + n
    cdef double *diff_beta = diff_gamma + n
    memset(diff_gamma, 0, 2 * n * sizeof(double))
    for sample in range(samples):
        sample_sums(args, p, sample, sum, dot)
        for c in range(n):
            diff_gamma[c] += dot[c]
            diff_beta[c] += sum[c]
        for c in range(n // p.group):
            group_terms(args, p, sample, c * p.group, sum, dot)
    for c in range(n):
        (<float *>args.dst[1].data)[c] = <float>diff_gamma[c]
        (<float *>args.dst[2].data)[c] = <float>diff_beta[c]
    return CNX_OK


cdef struct diff_params:
    int64_t rows, tiles
    double low, high


cdef int normalize_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: dy, x, statistics, gamma, beta, slope and level; dst: dx; scratch: 2 rows
    cdef const diff_params *p = <const diff_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t sample = worker.tile // p.tiles, row = worker.tile % p.tiles * p.rows, rows
    cdef int64_t last = min(row + p.rows, rows_of(dst))
    cdef norm_channels f = channel_function(&args.src[2], vector(&args.src[3]), vector(&args.src[4]), sample,
                                            <float *>worker.scratch, p.low, p.high)
    cdef norm_run dy, x, dx
    while row < last:
        rows = last - row
        dy = run_at(&args.src[0], sample, row, &rows)
        x = run_at(&args.src[1], sample, row, &rows)
        dx = run_at(dst, sample, row, &rows)
        simd.diff(&f, table_row(&args.src[5], sample, 0), table_row(&args.src[5], sample, 1), x, dy, dx, rows)
        row += rows
    return CNX_OK


cdef struct row_norm_params:
    int64_t rows, centered, has_add, post_op
    double epsilon, low, high, post_0, post_1


cdef int row_norm(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: x (1, rows, C), gamma, beta, add like x if there is one; dst like x
    cdef const row_norm_params *p = <const row_norm_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t row = worker.tile * p.rows, last = min(row + p.rows, rows_of(dst)), rows, r
    cdef norm_run x, y, add
    cdef norm_row f
    f.gamma, f.beta = vector(&args.src[1]), vector(&args.src[2])
    f.low, f.high, f.epsilon = <float>p.low, <float>p.high, p.epsilon
    f.n, f.centered = dst.shape[dst.rank - 1], <int32_t>p.centered
    add.at = NULL
    add.step = 0
    while row < last:
        rows = last - row
        x = run_at(&args.src[0], 0, row, &rows)
        y = run_at(dst, 0, row, &rows)
        if p.has_add:
            add = run_at(&args.src[3], 0, row, &rows)
        for r in range(rows):
            simd.row(&f, x.at + r * x.step, add.at + r * add.step if p.has_add else NULL, y.at + r * y.step)
        apply_post(worker.simd, p.post_op, p.post_0, p.post_1, y, rows, f.n)
        row += rows
    return CNX_OK


cdef struct row_norm_backward_params:
    int64_t shards, centered
    double epsilon


cdef int row_norm_backward(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: x, gamma, dy; dst: dx, (shards, 2, C) diff_gamma and diff_beta; scratch: 2 rows; a tile is a shard
    cdef const row_norm_backward_params *p = <const row_norm_backward_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t total = rows_of(src), row = worker.tile * total // p.shards, rows, r
    cdef int64_t last = (worker.tile + 1) * total // p.shards
    cdef norm_run x, dy, dx
    cdef norm_row f
    f.gamma = vector(&args.src[1])
    f.beta = NULL
    f.low, f.high, f.epsilon = 0, 0, p.epsilon
    f.n, f.centered = src.shape[src.rank - 1], <int32_t>p.centered
    cdef float *to = <float *>args.dst[1].data + worker.tile * 2 * f.n
    cdef float *sums = <float *>worker.scratch
    memset(to, 0, 2 * f.n * sizeof(float))
    while row < last:
        rows = min(last - row, <int64_t>SUM_ROWS)
        x = run_at(src, 0, row, &rows)
        dy = run_at(&args.src[2], 0, row, &rows)
        dx = run_at(&args.dst[0], 0, row, &rows)
        memset(sums, 0, 2 * f.n * sizeof(float))
        for r in range(rows):
            simd.row_backward(&f, x.at + r * x.step, dy.at + r * dy.step, dx.at + r * dx.step, sums, sums + f.n)
        worker.simd.axpy(1, sums, to, 2 * f.n)
        row += rows
    return CNX_OK


cdef struct response_params:
    int64_t rows, before, after
    double alpha, beta, bias


cdef int response(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # src: x (1, rows, C), and dy like x for the backward pass; dst like x; scratch: 2 rows
    cdef const response_params *p = <const response_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef const norm_rows *simd = norm_rows_for(worker.simd.level)
    cdef int64_t row = worker.tile * p.rows, last = min(row + p.rows, rows_of(dst)), rows, r
    cdef norm_run x, y, dy
    cdef norm_response f
    f.before, f.after, f.n = p.before, p.after, dst.shape[dst.rank - 1]
    f.alpha, f.beta, f.bias = <float>p.alpha, <float>p.beta, <float>p.bias
    while row < last:
        rows = last - row
        x = run_at(&args.src[0], 0, row, &rows)
        y = run_at(dst, 0, row, &rows)
        if args.n_src == 1:
            for r in range(rows):
                simd.response(&f, x.at + r * x.step, y.at + r * y.step, <float *>worker.scratch)
        else:
            dy = run_at(&args.src[1], 0, row, &rows)
            for r in range(rows):
                simd.response_backward(&f, x.at + r * x.step, dy.at + r * dy.step, y.at + r * y.step,
                                       <float *>worker.scratch)
        row += rows
    return CNX_OK


cdef moments_params moments_zero
cdef statistics_params statistics_zero
cdef moving_statistics_params moving_statistics_zero
cdef moving_update_params moving_update_zero
cdef normalize_params normalize_zero
cdef diff_sums_params diff_sums_zero
cdef diff_terms_params diff_terms_zero
cdef diff_params diff_zero
cdef row_norm_params row_norm_zero
cdef row_norm_backward_params row_norm_backward_zero
cdef response_params response_zero

KERNELS = {
    "moments": kernel("moments", moments),
    "statistics": kernel("statistics", statistics),
    "moving_statistics": kernel("moving_statistics", moving_statistics),
    "affine_terms": kernel("affine_terms", affine_terms),
    "moving_update": kernel("moving_update", moving_update),
    "normalize": kernel("normalize", normalize),
    "diff_sums": kernel("diff_sums", diff_sums),
    "diff_terms": kernel("diff_terms", diff_terms),
    "normalize_backward": kernel("normalize_backward", normalize_backward),
    "row_norm": kernel("row_norm", row_norm),
    "row_norm_backward": kernel("row_norm_backward", row_norm_backward),
    "response": kernel("response", response),
}
PARAMS = {
    "moments": fields(moments_zero),
    "statistics": fields(statistics_zero),
    "moving_statistics": fields(moving_statistics_zero),
    "affine_terms": fields(moving_statistics_zero),
    "moving_update": fields(moving_update_zero),
    "normalize": fields(normalize_zero),
    "diff_sums": fields(diff_sums_zero),
    "diff_terms": fields(diff_terms_zero),
    "normalize_backward": fields(diff_zero),
    "row_norm": fields(row_norm_zero),
    "row_norm_backward": fields(row_norm_backward_zero),
    "response": fields(response_zero),
}
