# Walking several strided tensors row by row.
#
# The plan hands over tensors of one common shape (broadcast axes have stride 0) whose axes it has merged as far as the
# strides allow; the last axis is the row. A tile is `rows` rows times a `chunk` of the row.
from libc.stdint cimport int64_t

from cnnext.plugin cimport CNX_MAX_RANK, cnx_tensor


cdef struct rows_params:
    int64_t rows                    # rows of a tile
    int64_t chunk                   # elements of a row in a tile


cdef struct row_range:
    int64_t first_row, last_row
    int64_t first, count            # elements of each row


cdef inline int64_t n_rows(const cnx_tensor *t) noexcept nogil:
    cdef int64_t n = 1
    cdef int i
    for i in range(t.rank - 1):
        n *= t.shape[i]
    return n


cdef inline row_range tile_rows(const cnx_tensor *t, const rows_params *p, int64_t tile) noexcept nogil:
    cdef int64_t width = t.shape[t.rank - 1]
    cdef int64_t chunks = (width + p.chunk - 1) // p.chunk
    cdef int64_t total = n_rows(t)
    cdef row_range r
    r.first_row = tile // chunks * p.rows
    r.last_row = min(r.first_row + p.rows, total)
    r.first = tile % chunks * p.chunk
    r.count = min(p.chunk, width - r.first)
    return r


cdef inline float *row_at(const cnx_tensor *t, int64_t row, int64_t first) noexcept nogil:
    # address of element `first` of a row, rows counted over all axes but the last
    cdef int64_t offset = first * t.stride[t.rank - 1]
    cdef int i
    for i in range(t.rank - 2, 0, -1):
        if t.stride[i] != 0:
            offset += row % t.shape[i] * t.stride[i]
        row //= t.shape[i]
    if t.rank > 1:
        offset += row * t.stride[0]
    return <float *>t.data + offset


cdef inline int64_t rows_alike(const cnx_tensor *t, int64_t row, int64_t last) noexcept nogil:
    # how many rows from `row` on, before `last`, lie at one distance in every tensor of this shape
    if t.rank < 2:
        return last - row
    return min(t.shape[t.rank - 2] - row % t.shape[t.rank - 2], last - row)


cdef inline int64_t row_step(const cnx_tensor *t) noexcept nogil:
    # the distance of such rows
    return t.stride[t.rank - 2] if t.rank > 1 else 0
