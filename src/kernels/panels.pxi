# Weights as the products want them: panels of result channels, (taps * channels summed over, nv * vl), zeros behind the last.

cdef inline void pack_tap(const cnx_tensor *weights, const int64_t *tap, bint backward, int64_t in0, int64_t rows,
                          int64_t out0, int64_t cols, float *to, int64_t width, const cnx_simd *simd) noexcept nogil:
    # rows of one tap (kh, kw), from channel in0 on, by cols result channels from out0 on; weights are (KH, KW, in, out),
    # backward (KH, KW, out, in)
    cdef const float *from_ = <const float *>weights.data + tap[0] * weights.stride[0] + tap[1] * weights.stride[1]
    cdef int64_t k
    if backward:
        simd.transpose(from_ + out0 * weights.stride[2] + in0, weights.stride[2], to, width, rows, cols)
    for k in range(rows):
        if not backward:
            memcpy(to, from_ + (in0 + k) * weights.stride[2] + out0, cols * sizeof(float))
        memset(to + cols, 0, (width - cols) * sizeof(float))
        to += width


cdef inline void pack_bias(const cnx_tensor *bias, int64_t out0, int64_t cols, float *to, int64_t width) noexcept nogil:
    memcpy(to, <const float *>bias.data + out0, cols * sizeof(float))
    memset(to + cols, 0, (width - cols) * sizeof(float))
