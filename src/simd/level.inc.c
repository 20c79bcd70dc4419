/* The table of one level: every tile primitive, compiled with that level's flags (setup.py, LEVELS).
 *
 * The primitives are static, and the table is the only symbol that an object of a level defines: the linker can never
 * replace a function of one level by its namesake of another.
 */
#include "vec.h"
#include "dispatch.h"
#include "math.inc.c"
#include "elementwise.inc.c"
#include "gemm.inc.c"
#include "taps.inc.c"
#include "depthwise.inc.c"
#include "move.inc.c"
#include "winograd.inc.c"
#include "pixels.inc.c"
#include "peak.inc.c"

#define CNX_JOIN_(a, b) a##b
#define CNX_JOIN(a, b) CNX_JOIN_(a, b)
#define CNX_STRING_(a) #a
#define CNX_STRING(a) CNX_STRING_(a)

const cnx_simd CNX_JOIN(cnx_simd_, CNX_LEVEL) = {
    .abi = CNX_ABI,
    .size = sizeof(cnx_simd),
    .level = CNX_STRING(CNX_LEVEL),
    .vl = CNX_VL,
    .max_nv = CNX_MAX_NV,
    .tile_rows = CNX_TILE_ROWS,

    .gemm_rows = gemm_rows,
    .gemm_outer = gemm_outer,

    .taps_dot = taps_dot,
    .taps_max = taps_max,
    .taps_sum = taps_sum,
    .taps_lp = taps_lp,
    .taps_max_backward = taps_max_backward,
    .taps_lp_backward = taps_lp_backward,

    .unary = unary,
    .unary_backward = unary_backward,
    .binary = binary,
    .prelu = prelu,
    .prelu_backward = prelu_backward,
    .axpy = axpy,

    .sum_rows = sum_rows,
    .dot_rows = dot_rows,

    .softmax = softmax,
    .log_softmax = log_softmax,
    .softmax_backward = softmax_backward,
    .log_softmax_backward = log_softmax_backward,

    .sgd = sgd,
    .adam = adam,

    .weighted_rows = weighted_rows,
    .transpose = transpose,

    .depthwise_row = depthwise_row,
    .unary_rows = unary_rows,
    .winograd_src = winograd_src,
    .winograd_dst = winograd_dst,
    .winograd_weights = winograd_weights,
    .binary_rows = binary_rows,
    .prelu_rows = prelu_rows,
    .softmax_rows = softmax_rows,
    .log_softmax_rows = log_softmax_rows,
    .winograd_diff = winograd_diff,
    .winograd_diff_weights = winograd_diff_weights,
    .depthwise_diff_row = depthwise_diff_row,
    .pixel_rows = pixel_rows,
    .fma_loop = fma_loop,
    .rmsprop = rmsprop,
    .taps_max_diff = taps_max_diff,
    .taps_lp_diff = taps_lp_diff,
    .pixels_diff_weights = pixels_diff_weights,
};
