"""Products of matrices, batched and broadcast.

Design
    The right matrices are packed into panels first: once, where they are constant. A tile is a block of rows of one product
    times one panel; K is walked in blocks whose part of the panel stays in the second-level cache, so that the rows of a
    tile share it. A transposed left matrix is read by the primitive whose columns are contiguous, never copied.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from cnnext.plugin cimport CNX_OK, cnx_args, cnx_gemm, cnx_tensor, cnx_worker

include "table.pxi"


cdef struct matmul_pack_params:
    int64_t K, N
    int64_t nv, panels
    int64_t k_stride, n_stride      # of the source: one of them is 1


cdef inline int64_t batch_offset(const cnx_tensor *t, int axes, int64_t batch) noexcept nogil:
    # of the batch axes, the first `axes` ones
    cdef int64_t offset = 0
    cdef int axis
    for axis in range(axes - 1, -1, -1):
        offset += batch % t.shape[axis] * t.stride[axis]
        batch //= t.shape[axis]
    return offset


cdef int matmul_pack(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # One tile is one panel: dst[0] is (batches, panels * K * nv * vl), zero where N ends; src[0] (batch axes, ., .)
    cdef const matmul_pack_params *p = <const matmul_pack_params *>args.params
    cdef const cnx_tensor *src = &args.src[0]
    cdef int64_t width = p.nv * worker.simd.vl, first = worker.tile % p.panels * width
    cdef int64_t cols = min(width, p.N - first), k
    cdef const float *from_ = (<const float *>src.data + batch_offset(src, src.rank - 2, worker.tile // p.panels)
                               + first * p.n_stride)
    cdef float *to = <float *>args.dst[0].data + worker.tile * p.K * width
    if p.n_stride == 1:
        for k in range(p.K):
            memcpy(to + k * width, from_ + k * p.k_stride, cols * sizeof(float))
            memset(to + k * width + cols, 0, (width - cols) * sizeof(float))
        return CNX_OK
    if cols < width:
        memset(to, 0, p.K * width * sizeof(float))
    worker.simd.transpose(from_, p.n_stride, to, width, p.K, cols)
    return CNX_OK


cdef struct matmul_params:
    int64_t M, K, N
    int64_t nv, panels
    int64_t rows                    # of a tile
    int64_t k_block
    int64_t m_stride, k_stride      # of the left matrices: one of them is 1


cdef int matmul(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # dst[0] (batch axes, M, N) = src[0] (batch axes, ., .) times src[1] (batch axes, panels * K * nv * vl), packed
    cdef const matmul_params *p = <const matmul_params *>args.params
    cdef const cnx_tensor *dst = &args.dst[0]
    cdef int batch_axes = dst.rank - 2
    cdef int64_t width = p.nv * worker.simd.vl, row_tiles = (p.M + p.rows - 1) // p.rows, k = 0, start = 0
    cdef int64_t panel = worker.tile % p.panels, row = worker.tile // p.panels % row_tiles * p.rows
    cdef int64_t batch = worker.tile // (p.panels * row_tiles)
    cdef const float *a = (<const float *>args.src[0].data + batch_offset(&args.src[0], batch_axes, batch)
                           + row * p.m_stride)
    cdef const float *b = (<const float *>args.src[1].data + batch_offset(&args.src[1], batch_axes, batch)
                           + panel * p.K * width)
    cdef cnx_gemm g
    g.rows = min(p.rows, p.M - row)
    g.cols = min(width, p.N - panel * width)
    g.n_seg = 1
    g.a_seg = &start
    g.a_row = p.m_stride
    g.a_k = p.k_stride
    g.c = (<float *>dst.data + batch_offset(dst, batch_axes, batch) + row * dst.stride[batch_axes] + panel * width)
    g.c_row = dst.stride[batch_axes]
    g.bias = NULL
    g.add = NULL
    g.add_row = 0
    g.low = -INFINITY
    g.high = INFINITY
    g.nv = <int>p.nv
    while True:
        g.seg_len = min(p.k_block, p.K - k)
        g.a = a + k * p.k_stride
        g.b = b + k * width
        g.accumulate = k > 0
        if p.k_stride == 1:
            worker.simd.gemm_rows(&g)
        else:
            worker.simd.gemm_outer(&g)
        k += p.k_block
        if k >= p.K:
            return CNX_OK


cdef matmul_pack_params matmul_pack_zero
cdef matmul_params matmul_zero

KERNELS = {
    "matmul_pack": kernel("matmul_pack", matmul_pack),
    "matmul": kernel("matmul", matmul),
}
PARAMS = {
    "matmul_pack": fields(matmul_pack_zero),
    "matmul": fields(matmul_zero),
}
