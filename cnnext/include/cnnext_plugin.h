/* The native door of cnnext: what a kernel is, what it receives, what it may call.
 *
 * The built-in kernels and the plugins' kernels are the same thing: a C function that the executor calls, without the
 * GIL, once per tile, on any of its workers. A kernel never opens a parallel region, never allocates, never keeps a
 * pointer after it returns. Counts and strides are elements unless a name ends in `_bytes` (docs/NOTATION.md).
 *
 * Append only: a released field never moves and never changes its meaning. Every struct that crosses the door begins
 * with `abi` (a breaking change) and `size` (what the other side knows of).
 */
#ifndef CNNEXT_PLUGIN_H
#define CNNEXT_PLUGIN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CNX_ABI 1
#define CNX_MAX_RANK 8

/* Element types. Built-in kernels compute on the first two; steps in Python see the others as NumPy does. */
enum {
    CNX_FLOAT32 = 0,
    CNX_INT64 = 1,
    CNX_FLOAT64 = 2,
    CNX_FLOAT16 = 3,
    CNX_INT32 = 4,
    CNX_INT16 = 5,
    CNX_INT8 = 6,
    CNX_UINT8 = 7,
    CNX_UINT16 = 8,
    CNX_UINT32 = 9,
    CNX_UINT64 = 10,
    CNX_BOOL = 11,          /* one byte, 0 or 1 */
    CNX_OTHER_DTYPE = 64    /* and above: no kernel knows them */
};

/* What a kernel returns. Anything but CNX_OK stops the run; the executor raises with the step's name. */
enum {
    CNX_OK = 0,
    CNX_ERROR_LABEL = 1,    /* a class label lies outside [0, classes) */
    CNX_ERROR_FAILED = 2    /* anything else */
};

/* Elementwise functions of one variable. f(x; p) with p the function's own constants; the backward form receives what
 * the third column names: the input x or the output y of the forward pass. */
#define CNX_UNARY_OPS(OP)                                         \
    OP(IDENTITY, identity, y)                                     \
    OP(CLIP, clip, y)                  /* p: low, high */         \
    OP(LEAKY_RELU, leaky_relu, y)      /* p: slope > 0 */         \
    OP(ELU, elu, y)                    /* p: alpha > 0 */         \
    OP(SELU, selu, y)                                             \
    OP(GELU, gelu, x)                                             \
    OP(GELU_TANH, gelu_tanh, x)                                   \
    OP(SIGMOID, sigmoid, y)                                       \
    OP(HARD_SIGMOID, hard_sigmoid, y)  /* p: slope, offset */     \
    OP(TANH, tanh, y)                                             \
    OP(SILU, silu, x)                                             \
    OP(HARD_SWISH, hard_swish, x)                                 \
    OP(MISH, mish, x)                                             \
    OP(SOFTPLUS, softplus, y)                                     \
    OP(SOFTSIGN, softsign, y)                                     \
    OP(AFFINE, affine, y)              /* p: scale, shift */      \
    OP(EXP, exp, y)                                               \
    OP(LOG, log, x)                                               \
    OP(SQRT, sqrt, y)                                             \
    OP(RSQRT, rsqrt, y)                /* 1 / sqrt(x) */          \
    OP(ABS, abs, x)                                               \
    OP(RECIPROCAL, reciprocal, y)                                 \
    OP(SQUARE, square, x)                                         \
    OP(CUBE, cube, x)                                             \
    OP(POWER, power, x)                /* p: exponent, not 0 */   \
    OP(FLOOR, floor, y)                                           \
    OP(CEIL, ceil, y)                                             \
    OP(ROUND, round, y)                /* halves to even */       \
    OP(SIGN, sign, y)                                             \
    OP(ERF, erf, x)                                               \
    OP(LEAKY_RELU_ANY, leaky_relu_any, x) /* p: any slope */      \
    OP(ELU_ANY, elu_any, x)            /* p: any alpha */         \
    OP(CELU, celu, y)                  /* p: alpha > 0 */         \
    OP(THRESHOLDED_RELU, thresholded_relu, x) /* p: threshold */  \
    OP(SWISH, swish, x)                /* p: beta */              \
    OP(SHRINK, shrink, x)              /* p: limit, bias */       \
    OP(SCALED_HARD_SWISH, scaled_hard_swish, x) /* p: scale, shift */

enum {
#define CNX_UNARY_ENUM(NAME, name, saved) CNX_##NAME,
    CNX_UNARY_OPS(CNX_UNARY_ENUM)
#undef CNX_UNARY_ENUM
    CNX_UNARY_COUNT
};

#define CNX_BINARY_OPS(OP)                                                                                          \
    OP(ADD, add)                                                                                                    \
    OP(SUBTRACT, subtract)                                                                                          \
    OP(MULTIPLY, multiply)                                                                                          \
    OP(DIVIDE, divide)                                                                                              \
    OP(MAXIMUM, maximum)                                                                                            \
    OP(MINIMUM, minimum)                                                                                            \
    OP(GREATER, greater)   /* 1 where a > b, 1/2 where a == b, else 0: how a maximum shares its gradient */         \
    OP(EQUAL, equal)       /* 1 where a == b, else 0 */

enum {
#define CNX_BINARY_ENUM(NAME, name) CNX_##NAME,
    CNX_BINARY_OPS(CNX_BINARY_ENUM)
#undef CNX_BINARY_ENUM
    CNX_BINARY_COUNT
};

/* One value: where it lies and how to walk it. The last stride is 1, so a pixel's channels are contiguous. */
typedef struct cnx_tensor {
    void *data;
    int32_t dtype;
    int32_t rank;
    int64_t shape[CNX_MAX_RANK];
    int64_t stride[CNX_MAX_RANK];
} cnx_tensor;

/* One step of a plan. `params` is the kernel's own parameter struct, filled by its lowering rule. */
typedef struct cnx_args {
    uint32_t abi, size;
    int32_t n_src, n_dst;
    const cnx_tensor *src;
    const cnx_tensor *dst;
    const void *params;
    int64_t params_bytes;
    int64_t n_tiles;
} cnx_args;

/* A strip of a matrix product, C[rows][cols] (+)= A[rows][K] B[K][cols], with everything that follows it applied while
 * the result is in registers: C = min(max(C + bias + add, low), high).
 *
 * K is cut into `n_seg` segments of `seg_len`; segment s of A starts at a + a_seg[s].
 *   gemm_rows:   A(m, s, k) = a[a_seg[s] + m * a_row + k]    a row of A is contiguous: convolution, dense
 *   gemm_outer:  A(m, s, k) = a[a_seg[s] + m + k * a_k]      a column is: gradients of weights
 * B is packed: K rows of nv * vl floats, zero where cols ends. bias is padded likewise, or NULL. `add` may be NULL.
 * With `accumulate`, C is read and added to; otherwise it is only written, and only rows x cols of it. */
typedef struct cnx_gemm {
    int64_t rows, cols;
    int64_t n_seg, seg_len;
    const float *a;
    const int64_t *a_seg;
    int64_t a_row, a_k;
    const float *b;
    float *c;
    int64_t c_row;
    const float *bias;
    const float *add;
    int64_t add_row;
    float low, high;
    int32_t nv;
    int32_t accumulate;
} cnx_gemm;

/* A run of `count` pixels that see the same taps of a window, over `channels` contiguous channels.
 * Pixel i reads src + i * src_step + offset[t] for each tap t and writes dst + i * dst_step.
 *   taps_dot:  dst = clip(bias + sum_t src_t * weights[weight_offset[t] + c], low, high);  bias may be NULL
 *   taps_max:  dst = max_t src_t
 *   taps_sum:  dst = scale * sum_t src_t
 *   taps_lp:   dst = (sum_t |src_t|^power)^(1/power)
 * `accumulate` adds to dst instead of overwriting (taps_dot without clip, and taps_sum). No taps: sums give 0 (or the
 * bias), max gives -infinity. */
typedef struct cnx_taps {
    int64_t count, channels;
    int64_t n_taps;
    const int64_t *offset;
    const float *src;
    int64_t src_step;
    float *dst;
    int64_t dst_step;
    const float *weights;
    const int64_t *weight_offset;
    const float *bias;
    float low, high;
    float scale, power;
    int32_t accumulate;
} cnx_taps;

/* One row of a depthwise convolution, `count` pixels of `channels` contiguous channels. The window's KW columns (3, 5 or 7) are
 * neighbours and move by SW (1 or 2) columns from pixel to pixel:
 *   dst(i, c) = clip(bias[c] + sum_h sum_k src(h, i * SW + k, c) * weights(h, k, c), low, high)
 * with src(h, j, c) = src[h * src_row + j * src_col + c] and weights(h, k, c) = weights[h * weight_row + k * weight_col + c],
 * over the window's `rows` rows h and those columns j with first <= j < last. bias may be NULL. Where post_op is not negative,
 * the unary function follows, with its constants. `far` says that the source comes from beyond L2. */
typedef struct cnx_depthwise {
    int64_t count, channels;
    int64_t rows, KW, SW;
    int64_t first, last;
    const float *src;
    int64_t src_row, src_col;
    const float *weights;
    int64_t weight_row, weight_col;
    const float *bias;
    float *dst;
    int64_t dst_col;
    float low, high;
    int64_t post_op;
    const float *post;
    int64_t far;
} cnx_depthwise;

/* The result of one tile of a Winograd convolution F(m x m, 3 x 3), A^T M A with all that follows it, from the (m + 2)^2
 * products M, `src_step` apart, for `channels` contiguous channels. Rows of the products and the bias (or NULL) are padded to
 * whole vectors. Of the m x m pixels only the first `rows` x `cols` are written (and read from `add`, or NULL):
 * dst = min(max(A^T M A + bias + add, low), high). */
typedef struct cnx_winograd {
    int32_t m;                 /* 2 or 4 */
    int64_t rows, cols, channels;
    const float *src;
    int64_t src_step;
    float *dst;
    int64_t dst_row, dst_pixel;
    const float *bias;
    const float *add;
    int64_t add_row, add_pixel;
    float low, high;
} cnx_winograd;

/* `rows` x `cols` pixels of a sum of `depth` terms for each of `filters` filters, with everything that follows it:
 *   dst(r, i, f) = min(max(bias[f] + sum_k src[r * src_row + i + offset[k]] * weights[k * weights_row + f], low), high)
 * with dst(r, i, f) = dst[r * dst_row + i * dst_pixel + f]. bias may be NULL. Pixels of the source are neighbours, so a term is a
 * plane of one channel; they are read in whole vectors, beyond `cols` too. With pool = 2, each of the rows x cols pixels is the
 * largest of 2 x 2 such sums: those of rows 2 r and 2 r + 1, pixels 2 i and 2 i + 1. Otherwise pool = 1. */
typedef struct cnx_pixels {
    int64_t rows, cols, filters;
    int64_t depth;
    const int64_t *offset;
    const float *src;
    int64_t src_row;
    const float *weights;
    int64_t weights_row;
    const float *bias;
    float *dst;
    int64_t dst_row, dst_pixel;
    float low, high;
    int64_t pool;
} cnx_pixels;

/* The gradient of the weights of such a sum, source and gradient of the result both as planes, in `count` places (a multiple of
 * vl) that follow each other:
 *   sums(k, f) = sum_i src[offset[k] + i] * diff[f * diff_plane + i]
 * for `depth` terms k and `filters` filters f. `sums` holds a vector of partial sums for each, (depth, filters, vl); with
 * `accumulate` they are added to. With dst, not NULL, the lanes are added up at the end:
 *   dst[place[k] * dst_row + f] = sum of the lanes of sums(k, f) */
typedef struct cnx_pixels_diff {
    int64_t count, depth, filters;
    const float *src;
    const int64_t *offset, *place;
    const float *diff;
    int64_t diff_plane;
    float *sums;
    float *dst;
    int64_t dst_row;
    int64_t accumulate;
} cnx_pixels_diff;

/* What a kernel may call: the tile primitives of the chosen instruction set. No pointer needs any alignment. Sources and
 * results may be the same row (x == y), never overlap otherwise. */
typedef struct cnx_simd {
    uint32_t abi, size;
    const char *level;         /* "baseline", "avx2", "avx512" */
    int32_t vl;                /* floats in a vector */
    int32_t max_nv;            /* widest panel of a GEMM tile, in vectors */
    int32_t tile_rows[8];      /* [nv - 1]: rows of the full register tile of that width */

    void (*gemm_rows)(const cnx_gemm *g);
    void (*gemm_outer)(const cnx_gemm *g);

    void (*taps_dot)(const cnx_taps *t);
    void (*taps_max)(const cnx_taps *t);
    void (*taps_sum)(const cnx_taps *t);
    void (*taps_lp)(const cnx_taps *t);
    /* Of one pixel: diff_src_t += diff_dst for the first tap t whose source equals dst (t->dst), channel by channel.
     * diff_offset as `offset`, from diff_src. */
    void (*taps_max_backward)(const cnx_taps *t, const float *diff_dst, float *diff_src, const int64_t *diff_offset);
    /* Of one pixel: diff_src_t += diff_dst * sign(src_t) |src_t|^(power-1) / dst^(power-1), 0 where dst is 0. */
    void (*taps_lp_backward)(const cnx_taps *t, const float *diff_dst, float *diff_src, const int64_t *diff_offset);

    void (*unary)(int32_t op, const float *x, float *y, int64_t n, const float *p);
    /* dx = dy * f'(saved), overwriting; `saved` is x or y as CNX_UNARY_OPS says. */
    void (*unary_backward)(int32_t op, const float *saved, const float *dy, float *dx, int64_t n, const float *p);
    /* y = op(a, b); a step of 0 repeats one value, 1 walks the row. */
    void (*binary)(int32_t op, const float *a, int64_t a_step, const float *b, int64_t b_step, float *y, int64_t n);
    void (*prelu)(const float *x, const float *slope, float *y, int64_t n);
    /* dx = dy * (x > 0 ? 1 : slope) overwriting; dslope += dy * min(x, 0) accumulating. */
    void (*prelu_backward)(const float *x, const float *slope, const float *dy, float *dx, float *dslope, int64_t n);
    void (*axpy)(float scale, const float *x, float *y, int64_t n); /* y += scale * x */

    void (*sum_rows)(const float *x, int64_t row_step, int64_t rows, float *acc, int64_t n); /* acc += sum of rows */
    /* acc += sum over rows of a * b */
    void (*dot_rows)(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t rows, float *acc, int64_t n);

    void (*softmax)(const float *x, float *y, int64_t n);
    void (*log_softmax)(const float *x, float *y, int64_t n);
    void (*softmax_backward)(const float *y, const float *dy, float *dx, int64_t n);
    void (*log_softmax_backward)(const float *y, const float *dy, float *dx, int64_t n);

    /* w -= rate * velocity after velocity = momentum * velocity + (dw + decay * w); nesterov looks one step ahead. */
    void (*sgd)(float *w, float *velocity, const float *dw, int64_t n, float rate, float momentum, float decay,
                int32_t nesterov);
    /* Kingma & Ba 2015, algorithm 1, with the two bias corrections folded into `rate` (already multiplied by
     * sqrt(1 - beta2^t) / (1 - beta1^t)) and `epsilon` (already multiplied by sqrt(1 - beta2^t)). `decay` (already
     * multiplied by the plain rate) is decoupled from the moments: w -= decay * w (Loshchilov & Hutter 2019). */
    void (*adam)(float *w, float *m, float *v, const float *dw, int64_t n, float rate, double beta1, double beta2,
                 float epsilon, float decay);

    /* Row i of dst, n floats, = sum of weight[t] * row index[t] of src over the terms t of start[i] to start[i + 1]; `value`
     * where there is none. */
    void (*weighted_rows)(const int64_t *start, const int64_t *index, const float *weight, const float *src,
                          int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t n, float value);
    /* dst[r * dst_step + c] = src[c * src_step + r] */
    void (*transpose)(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t cols);

    void (*depthwise_row)(const cnx_depthwise *t);
    /* unary on `rows` rows of n floats */
    void (*unary_rows)(int32_t op, const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n,
                       const float *p);
    /* Winograd's transforms, m = 2 or 4. Of a tile of (m + 2)^2 pixels, by pointers, with n channels: row i of dst = row i of
     * B^T d B; rows are written in whole vectors, zero beyond n. */
    void (*winograd_src)(int32_t m, const float **pixel, float *dst, int64_t dst_step, int64_t n);
    void (*winograd_dst)(const cnx_winograd *w);
    /* G g G^T of the nine taps of n filters, n whole vectors: tap t is src + t * src_step. */
    void (*winograd_weights)(int32_t m, const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t n);
    /* binary, and prelu, on `rows` rows of n floats */
    void (*binary_rows)(int32_t op, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row,
                        int64_t b_step, float *y, int64_t y_row, int64_t rows, int64_t n);
    void (*prelu_rows)(const float *x, int64_t x_row, const float *slope, int64_t slope_row, float *y, int64_t y_row,
                       int64_t rows, int64_t n);
    /* softmax and log_softmax of each of `rows` rows, which are those of one tensor: equal lengths, no row overlaps the next */
    void (*softmax_rows)(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n);
    void (*log_softmax_rows)(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n);
    /* The gradient of Winograd's weights. Of a tile of m^2 pixels of diff_dst, by pointers, with n channels: row i of dst = row i
     * of A d A^T; rows are written in whole vectors, zero beyond n. */
    void (*winograd_diff)(int32_t m, const float **pixel, float *dst, int64_t dst_step, int64_t n);
    /* G^T u G, nine taps of n filters, from (m + 2)^2 points: point i is src + i * src_step, padded to whole vectors; tap t is
     * dst + t * dst_step, of which n floats are written. */
    void (*winograd_diff_weights)(int32_t m, const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t n);
    /* The gradient of a depthwise convolution's weights from one output row, accumulating:
     *   diff_weights(h, k, c) += sum_i src(h, i * SW + k, c) * diff_dst(i, c)
     * with t as depthwise_row has it; weight_row, weight_col are the steps of diff_weights, dst_col that of diff_dst; weights,
     * bias, dst, low, high and post_op are not read. */
    void (*depthwise_diff_row)(const cnx_depthwise *t, const float *diff_dst, float *diff_weights);
    void (*pixel_rows)(const cnx_pixels *g);
    /* For benchmarks: multiply-adds in registers alone; returns how many operations, and a vector of results in dst. */
    int64_t (*fma_loop)(int64_t turns, float *dst);
    /* With gradient = dw + decay * w: square = keep * square + take * gradient^2, step = gradient / (sqrt(square) + epsilon),
     * epsilon > 0; velocity = momentum * velocity + step unless it is NULL; w -= rate * velocity, or rate * step. */
    void (*rmsprop)(float *w, float *square, float *velocity, const float *dw, int64_t n, float rate, double keep,
                    double take, float momentum, float epsilon, float decay);
    /* taps_max_backward and taps_lp_backward of a run of pixels: pixel i of diff_dst is diff_dst + i * diff_dst_step, its tap t
     * diff_src + i * diff_src_step + diff_offset[t]. Without `accumulate` a tap's gradient is written, not added. */
    void (*taps_max_diff)(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                          int64_t diff_src_step, const int64_t *diff_offset);
    void (*taps_lp_diff)(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                         int64_t diff_src_step, const int64_t *diff_offset);
    void (*pixels_diff_weights)(const cnx_pixels_diff *g);
} cnx_simd;

/* Who runs the tile. `scratch` is 64-byte aligned, private to the worker, and holds garbage. */
typedef struct cnx_worker {
    uint32_t abi, size;
    int32_t index, count;      /* which worker of how many: for scratch only, never for cutting work */
    int64_t tile;              /* which of args->n_tiles to compute */
    void *scratch;
    int64_t scratch_bytes;
    const cnx_simd *simd;
} cnx_worker;

typedef int (*cnx_kernel_fn)(const cnx_args *args, cnx_worker *worker);

/* What a plugin hands over: a PyCapsule named CNX_KERNEL_CAPSULE around one of these, which must outlive the process. */
#define CNX_KERNEL_CAPSULE "cnnext.kernel.v1"

typedef struct cnx_kernel {
    uint32_t abi, size;
    const char *name;
    cnx_kernel_fn run;
} cnx_kernel;

#ifdef __cplusplus
}
#endif
#endif
