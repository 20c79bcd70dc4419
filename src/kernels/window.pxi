# A window that slides along an output row.
#
# The pixels near an image's left and right border see some columns of the window only; each gets a tap list of its own.
# The run of pixels between them shares one list and is one call of a primitive. So no border is ever copied.
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from cnnext.plugin cimport cnx_taps, cnx_tensor, cnx_worker


cdef struct window_params:          # how the parameter structs of the kernels here begin
    int64_t n_taps                  # table of taps: n_taps rows of (dh, dw, row of the weights)
    int64_t SH, SW
    int64_t first, last             # output columns [first, last) see all columns of the window
    int64_t rows, channels          # output rows and channels of a tile


ctypedef void (*taps_fn)(const cnx_taps *t) noexcept nogil


cdef struct window_walk:
    const window_params *p
    const int64_t *table
    const cnx_tensor *src
    const cnx_tensor *dst
    int64_t n, oh_begin, oh_end     # the tile
    int64_t c0, channels
    int64_t *offset                 # tap list of the pixel at hand: in the source and in the weights
    int64_t *weight
    taps_fn compute


cdef inline window_walk walk_of(const window_params *p, const cnx_tensor *src, const int64_t *table,
                                const cnx_tensor *dst, cnx_worker *worker, taps_fn compute) noexcept nogil:
    cdef window_walk w
    cdef int64_t blocks = (dst.shape[3] + p.channels - 1) // p.channels
    cdef int64_t row_tiles = (dst.shape[1] + p.rows - 1) // p.rows
    w.p = p
    w.table = table
    w.src = src
    w.dst = dst
    w.compute = compute
    w.c0 = worker.tile % blocks * p.channels
    w.channels = min(p.channels, dst.shape[3] - w.c0)
    w.oh_begin = worker.tile // blocks % row_tiles * p.rows
    w.oh_end = min(w.oh_begin + p.rows, dst.shape[1])
    w.n = worker.tile // blocks // row_tiles
    w.offset = <int64_t *>worker.scratch
    w.weight = w.offset + p.n_taps
    return w


cdef inline cnx_taps taps_of(const window_walk *w) noexcept nogil:
    cdef cnx_taps t
    t.count = 1
    t.channels = w.channels
    t.n_taps = 0
    t.offset = w.offset
    t.src = NULL
    t.src_step = w.p.SW * w.src.stride[2]
    t.dst = NULL
    t.dst_step = w.dst.stride[2]
    t.weights = NULL
    t.weight_offset = w.weight
    t.bias = NULL
    t.low = -INFINITY
    t.high = INFINITY
    t.scale = 1
    t.power = 1
    t.accumulate = 0
    return t


cdef inline float *pixel_at(const cnx_tensor *t, int64_t n, int64_t h, int64_t w, int64_t c) noexcept nogil:
    return <float *>t.data + n * t.stride[0] + h * t.stride[1] + w * t.stride[2] + c


cdef inline int64_t select_taps(const window_walk *w, const cnx_tensor *image, int64_t oh, int64_t ow,
                                int64_t *offset) noexcept nogil:
    # the taps of output pixel (oh, ow) that lie in the image, in their order; their number
    cdef int64_t ih0 = oh * w.p.SH, iw0 = ow * w.p.SW, dh, dw, i, n = 0
    for i in range(w.p.n_taps):
        dh = w.table[3 * i]
        dw = w.table[3 * i + 1]
        if 0 <= ih0 + dh < image.shape[1] and 0 <= iw0 + dw < image.shape[2]:
            offset[n] = dh * image.stride[1] + dw * image.stride[2]
            w.weight[n] = w.table[3 * i + 2] * image.shape[3]
            n += 1
    return n


cdef inline int64_t pixels_alike(const window_walk *w, int64_t ow) noexcept nogil:
    # how many pixels from ow on see the taps that ow sees
    return w.p.last - ow if w.p.first <= ow < w.p.last else 1


cdef inline void walk_row(const window_walk *w, cnx_taps *t, int64_t oh, const int64_t *row_count,
                          const int64_t *col_count) noexcept nogil:
    # row_count, col_count: NULL, or by how many rows and columns of the window a sum is divided
    cdef int64_t ow = 0
    while ow < w.dst.shape[2]:
        t.n_taps = select_taps(w, w.src, oh, ow, w.offset)
        t.count = pixels_alike(w, ow)
        t.src = pixel_at(w.src, w.n, oh * w.p.SH, ow * w.p.SW, w.c0)
        t.dst = pixel_at(w.dst, w.n, oh, ow, w.c0)
        if row_count != NULL:
            t.scale = <float>(1.0 / (row_count[oh] * col_count[ow]))
        w.compute(t)
        ow += t.count
