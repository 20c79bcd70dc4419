/* The loops of normalization over rows of channels, one table per instruction-set level (rows.c). */
#ifndef CNNEXT_NORMALIZATION_ROWS_H
#define CNNEXT_NORMALIZATION_ROWS_H

#include <stdint.h>
#include "cnnext_simd.h"

/* Where `rows` rows of a tensor begin and how far apart they are, in floats. */
typedef struct norm_run {
    float *at;
    int64_t step;
} norm_run;

/* The function y = clip((x - center) * scale + shift + add), channel by channel. With a mean that a float cannot hold,
 * center is its nearest float, so that x - center is exact near it, and the rest is in shift. */
typedef struct norm_channels {
    const float *center, *scale, *shift;
    float low, high;
    int64_t n;
} norm_channels;

/* How a row is normalized by its own mean and variance (centered) or by its root mean square. */
typedef struct norm_row {
    const float *gamma, *beta;
    float low, high;
    double epsilon;
    int64_t n;
    int32_t centered;
} norm_row;

/* y = x / (bias + alpha / size * sum of squares over `before` channels before and `after` behind)^beta */
typedef struct norm_response {
    int64_t before, after, n;
    float alpha, beta, bias;
} norm_response;

typedef struct norm_rows {
    /* sum += x - center, squares += (x - center)^2, over the rows */
    void (*deviations)(norm_run x, int64_t rows, const float *center, float *sum, float *squares, int64_t n);
    /* add.at may be NULL; y may be x */
    void (*normalize)(const norm_channels *p, norm_run x, norm_run add, norm_run y, int64_t rows);
    /* sum += dy, dots += dy * (x - center); where p clips, dy counts as 0 outside of (low, high) */
    void (*diff_sums)(const norm_channels *p, norm_run x, norm_run dy, int64_t rows, float *sum, float *dots);
    /* dx = scale * dy - slope * (x - center) - level, dy as above */
    void (*diff)(const norm_channels *p, const float *slope, const float *level, norm_run x, norm_run dy, norm_run dx,
                 int64_t rows);

    void (*row)(const norm_row *p, const float *x, const float *add, float *y);
    /* dx overwritten; diff_gamma and diff_beta accumulated */
    void (*row_backward)(const norm_row *p, const float *x, const float *dy, float *dx, float *diff_gamma,
                         float *diff_beta);

    /* scratch: 2 n floats */
    void (*response)(const norm_response *p, const float *x, float *y, float *scratch);
    void (*response_backward)(const norm_response *p, const float *x, const float *dy, float *dx, float *scratch);
} norm_rows;

CNX_LEVEL_TABLE(norm_rows)

#endif
