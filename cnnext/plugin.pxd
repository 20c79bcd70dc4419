# The native door of cnnext for Cython: include/cnnext_plugin.h, which documents every field. Append only.

from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "cnnext_plugin.h" nogil:
    enum:
        CNX_ABI
        CNX_MAX_RANK

    enum:
        CNX_FLOAT32
        CNX_INT64
        CNX_FLOAT64
        CNX_FLOAT16
        CNX_INT32
        CNX_INT16
        CNX_INT8
        CNX_UINT8
        CNX_UINT16
        CNX_UINT32
        CNX_UINT64
        CNX_BOOL
        CNX_OTHER_DTYPE

    enum:
        CNX_OK
        CNX_ERROR_LABEL
        CNX_ERROR_FAILED

    enum:
        CNX_IDENTITY
        CNX_CLIP
        CNX_LEAKY_RELU
        CNX_ELU
        CNX_SELU
        CNX_GELU
        CNX_GELU_TANH
        CNX_SIGMOID
        CNX_HARD_SIGMOID
        CNX_TANH
        CNX_SILU
        CNX_HARD_SWISH
        CNX_MISH
        CNX_SOFTPLUS
        CNX_SOFTSIGN
        CNX_AFFINE
        CNX_EXP
        CNX_LOG
        CNX_SQRT
        CNX_RSQRT
        CNX_ABS
        CNX_RECIPROCAL
        CNX_SQUARE
        CNX_CUBE
        CNX_POWER
        CNX_FLOOR
        CNX_CEIL
        CNX_ROUND
        CNX_SIGN
        CNX_ERF
        CNX_LEAKY_RELU_ANY
        CNX_ELU_ANY
        CNX_CELU
        CNX_THRESHOLDED_RELU
        CNX_SWISH
        CNX_SHRINK
        CNX_SCALED_HARD_SWISH
        CNX_UNARY_COUNT

    enum:
        CNX_ADD
        CNX_SUBTRACT
        CNX_MULTIPLY
        CNX_DIVIDE
        CNX_MAXIMUM
        CNX_MINIMUM
        CNX_GREATER
        CNX_EQUAL
        CNX_BINARY_COUNT

    ctypedef struct cnx_tensor:
        void *data
        int32_t dtype
        int32_t rank
        int64_t shape[CNX_MAX_RANK]
        int64_t stride[CNX_MAX_RANK]

    ctypedef struct cnx_args:
        uint32_t abi
        uint32_t size
        int32_t n_src
        int32_t n_dst
        const cnx_tensor *src
        const cnx_tensor *dst
        const void *params
        int64_t params_bytes
        int64_t n_tiles

    ctypedef struct cnx_gemm:
        int64_t rows
        int64_t cols
        int64_t n_seg
        int64_t seg_len
        const float *a
        const int64_t *a_seg
        int64_t a_row
        int64_t a_k
        const float *b
        float *c
        int64_t c_row
        const float *bias
        const float *add
        int64_t add_row
        float low
        float high
        int32_t nv
        int32_t accumulate

    ctypedef struct cnx_taps:
        int64_t count
        int64_t channels
        int64_t n_taps
        const int64_t *offset
        const float *src
        int64_t src_step
        float *dst
        int64_t dst_step
        const float *weights
        const int64_t *weight_offset
        const float *bias
        float low
        float high
        float scale
        float power
        int32_t accumulate

    ctypedef struct cnx_depthwise:
        int64_t count
        int64_t channels
        int64_t rows
        int64_t KW
        int64_t SW
        int64_t first
        int64_t last
        const float *src
        int64_t src_row
        int64_t src_col
        const float *weights
        int64_t weight_row
        int64_t weight_col
        const float *bias
        float *dst
        int64_t dst_col
        float low
        float high
        int64_t post_op
        const float *post
        int64_t far

    ctypedef struct cnx_winograd:
        int32_t m
        int64_t rows
        int64_t cols
        int64_t channels
        const float *src
        int64_t src_step
        float *dst
        int64_t dst_row
        int64_t dst_pixel
        const float *bias
        const float *add
        int64_t add_row
        int64_t add_pixel
        float low
        float high

    ctypedef struct cnx_pixels:
        int64_t rows
        int64_t cols
        int64_t filters
        int64_t depth
        const int64_t *offset
        const float *src
        int64_t src_row
        const float *weights
        int64_t weights_row
        const float *bias
        float *dst
        int64_t dst_row
        int64_t dst_pixel
        float low
        float high
        int64_t pool

    ctypedef struct cnx_pixels_diff:
        int64_t count
        int64_t depth
        int64_t filters
        const float *src
        const int64_t *offset
        const int64_t *place
        const float *diff
        int64_t diff_plane
        float *sums
        float *dst
        int64_t dst_row
        int64_t accumulate

    ctypedef struct cnx_simd:
        uint32_t abi
        uint32_t size
        const char *level
        int32_t vl
        int32_t max_nv
        int32_t tile_rows[8]
        void (*gemm_rows)(const cnx_gemm *g) noexcept nogil
        void (*gemm_outer)(const cnx_gemm *g) noexcept nogil
        void (*taps_dot)(const cnx_taps *t) noexcept nogil
        void (*taps_max)(const cnx_taps *t) noexcept nogil
        void (*taps_sum)(const cnx_taps *t) noexcept nogil
        void (*taps_lp)(const cnx_taps *t) noexcept nogil
        void (*taps_max_backward)(const cnx_taps *t, const float *diff_dst, float *diff_src,
                                  const int64_t *diff_offset) noexcept nogil
        void (*taps_lp_backward)(const cnx_taps *t, const float *diff_dst, float *diff_src,
                                 const int64_t *diff_offset) noexcept nogil
        void (*unary)(int32_t op, const float *x, float *y, int64_t n, const float *p) noexcept nogil
        void (*unary_backward)(int32_t op, const float *saved, const float *dy, float *dx, int64_t n,
                               const float *p) noexcept nogil
        void (*binary)(int32_t op, const float *a, int64_t a_step, const float *b, int64_t b_step, float *y,
                       int64_t n) noexcept nogil
        void (*prelu)(const float *x, const float *slope, float *y, int64_t n) noexcept nogil
        void (*prelu_backward)(const float *x, const float *slope, const float *dy, float *dx, float *dslope,
                               int64_t n) noexcept nogil
        void (*axpy)(float scale, const float *x, float *y, int64_t n) noexcept nogil
        void (*sum_rows)(const float *x, int64_t row_step, int64_t rows, float *acc, int64_t n) noexcept nogil
        void (*dot_rows)(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t rows, float *acc,
                         int64_t n) noexcept nogil
        void (*softmax)(const float *x, float *y, int64_t n) noexcept nogil
        void (*log_softmax)(const float *x, float *y, int64_t n) noexcept nogil
        void (*softmax_backward)(const float *y, const float *dy, float *dx, int64_t n) noexcept nogil
        void (*log_softmax_backward)(const float *y, const float *dy, float *dx, int64_t n) noexcept nogil
        void (*sgd)(float *w, float *velocity, const float *dw, int64_t n, float rate, float momentum, float decay,
                    int32_t nesterov) noexcept nogil
        void (*adam)(float *w, float *m, float *v, const float *dw, int64_t n, float rate, double beta1, double beta2,
                     float epsilon, float decay) noexcept nogil
        void (*weighted_rows)(const int64_t *start, const int64_t *index, const float *weight, const float *src,
                              int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t n,
                              float value) noexcept nogil
        void (*transpose)(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t rows,
                          int64_t cols) noexcept nogil
        void (*depthwise_row)(const cnx_depthwise *t) noexcept nogil
        void (*unary_rows)(int32_t op, const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n,
                           const float *p) noexcept nogil
        void (*winograd_src)(int32_t m, const float **pixel, float *dst, int64_t dst_step, int64_t n) noexcept nogil
        void (*winograd_dst)(const cnx_winograd *w) noexcept nogil
        void (*winograd_weights)(int32_t m, const float *src, int64_t src_step, float *dst, int64_t dst_step,
                                 int64_t n) noexcept nogil
        void (*binary_rows)(int32_t op, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row,
                            int64_t b_step, float *y, int64_t y_row, int64_t rows, int64_t n) noexcept nogil
        void (*prelu_rows)(const float *x, int64_t x_row, const float *slope, int64_t slope_row, float *y, int64_t y_row,
                           int64_t rows, int64_t n) noexcept nogil
        void (*softmax_rows)(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows,
                             int64_t n) noexcept nogil
        void (*log_softmax_rows)(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows,
                                 int64_t n) noexcept nogil
        void (*winograd_diff)(int32_t m, const float **pixel, float *dst, int64_t dst_step, int64_t n) noexcept nogil
        void (*winograd_diff_weights)(int32_t m, const float *src, int64_t src_step, float *dst, int64_t dst_step,
                                      int64_t n) noexcept nogil
        void (*depthwise_diff_row)(const cnx_depthwise *t, const float *diff_dst, float *diff_weights) noexcept nogil
        void (*pixel_rows)(const cnx_pixels *g) noexcept nogil
        int64_t (*fma_loop)(int64_t turns, float *dst) noexcept nogil
        void (*rmsprop)(float *w, float *square, float *velocity, const float *dw, int64_t n, float rate, double keep,
                        double take, float momentum, float epsilon, float decay) noexcept nogil
        void (*taps_max_diff)(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                              int64_t diff_src_step, const int64_t *diff_offset) noexcept nogil
        void (*taps_lp_diff)(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                             int64_t diff_src_step, const int64_t *diff_offset) noexcept nogil
        void (*pixels_diff_weights)(const cnx_pixels_diff *g) noexcept nogil

    ctypedef struct cnx_worker:
        uint32_t abi
        uint32_t size
        int32_t index
        int32_t count
        int64_t tile
        void *scratch
        int64_t scratch_bytes
        const cnx_simd *simd

    ctypedef int (*cnx_kernel_fn)(const cnx_args *args, cnx_worker *worker) noexcept nogil

    const char *CNX_KERNEL_CAPSULE

    ctypedef struct cnx_kernel:
        uint32_t abi
        uint32_t size
        const char *name
        cnx_kernel_fn run
