/* Rows put together from others, and transposes.
 *
 * Design
 *   Weighted rows: a row is finished vector by vector over all its terms, so it is written once, and a copy is a sum of one
 *                  term of weight 1.
 *   Transposes:    blocks of 8 x 8 (4 x 4 where vectors have four lanes) in registers: pairs of rows are interleaved, then
 *                  pairs of pairs, then halves. Blocks go in groups of 16 x 16, so that each cache line of source and result
 *                  is used up while it is near. What is left at the edges goes one by one, the longer side inside.
 *                  Images of three planes, the source of most networks, are interleaved vector by vector; pixels of few
 *                  channels are split into planes likewise.
 */

CNX_INLINE void weighted_row(const int64_t *index, const float *weight, int64_t terms, const float *src, int64_t src_step,
                             float *dst, int64_t n)
{
    int64_t c = 0;
    for (; c + 4 * CNX_VL <= n; c += 4 * CNX_VL) {
        vf sum[4];
        const float *first = src + index[0] * src_step + c;
        CNX_UNROLL for (int v = 0; v < 4; v++) sum[v] = weight[0] * load(first + v * CNX_VL);
        for (int64_t t = 1; t < terms; t++) {
            const float *term = src + index[t] * src_step + c;
            CNX_UNROLL for (int v = 0; v < 4; v++) sum[v] += weight[t] * load(term + v * CNX_VL);
        }
        CNX_UNROLL for (int v = 0; v < 4; v++) store(dst + c + v * CNX_VL, sum[v]);
    }
    for (; c < n; c += CNX_VL) {
        vf sum = weight[0] * load_row(src + index[0] * src_step + c, n - c);
        for (int64_t t = 1; t < terms; t++) sum += weight[t] * load_row(src + index[t] * src_step + c, n - c);
        store_row(dst + c, sum, n - c);
    }
}

static void weighted_rows(const int64_t *start, const int64_t *index, const float *weight, const float *src,
                          int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t n, float value)
{
    for (int64_t row = 0; row < rows; row++) {
        const int64_t first = start[row], terms = start[row + 1] - first;
        float *to = dst + row * dst_step;
        if (terms)
            weighted_row(index + first, weight + first, terms, src, src_step, to, n);
        else
            for (int64_t c = 0; c < n; c += CNX_VL) store_row(to + c, splat(value), n - c);
    }
}

/* GCC has the common name since version 12 only. */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (block_order){__VA_ARGS__})
#endif

#if CNX_VL == 4
#define BLOCK 4
typedef float block_row __attribute__((vector_size(16)));
typedef int32_t block_order __attribute__((vector_size(16)));
typedef float block_mem __attribute__((vector_size(16), aligned(4), may_alias));

CNX_INLINE void transpose_registers(block_row *a)
{
    const block_row low_01 = SHUFFLE(a[0], a[1], 0, 4, 1, 5), high_01 = SHUFFLE(a[0], a[1], 2, 6, 3, 7);
    const block_row low_23 = SHUFFLE(a[2], a[3], 0, 4, 1, 5), high_23 = SHUFFLE(a[2], a[3], 2, 6, 3, 7);
    a[0] = SHUFFLE(low_01, low_23, 0, 1, 4, 5);
    a[1] = SHUFFLE(low_01, low_23, 2, 3, 6, 7);
    a[2] = SHUFFLE(high_01, high_23, 0, 1, 4, 5);
    a[3] = SHUFFLE(high_01, high_23, 2, 3, 6, 7);
}
#else
#define BLOCK 8
typedef float block_row __attribute__((vector_size(32)));
typedef int32_t block_order __attribute__((vector_size(32)));
typedef float block_mem __attribute__((vector_size(32), aligned(4), may_alias));

CNX_INLINE void transpose_registers(block_row *a)
{
    block_row pair[8], four[8];
    CNX_UNROLL for (int i = 0; i < 8; i += 2)
    {
        pair[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        pair[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    CNX_UNROLL for (int i = 0; i < 8; i += 4) CNX_UNROLL for (int j = 0; j < 2; j++)
    {
        four[i + 2 * j] = SHUFFLE(pair[i + j], pair[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        four[i + 2 * j + 1] = SHUFFLE(pair[i + j], pair[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    CNX_UNROLL for (int i = 0; i < 4; i++)
    {
        a[i] = SHUFFLE(four[i], four[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        a[i + 4] = SHUFFLE(four[i], four[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#endif

CNX_INLINE void transpose_block(const float *src, int64_t src_step, float *dst, int64_t dst_step)
{
    block_row row[BLOCK];
    CNX_UNROLL for (int i = 0; i < BLOCK; i++) row[i] = *(const block_mem *)(src + i * src_step);
    transpose_registers(row);
    CNX_UNROLL for (int i = 0; i < BLOCK; i++) *(block_mem *)(dst + i * dst_step) = row[i];
}

CNX_INLINE void transpose_edge(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t cols)
{
    if (rows > cols)
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = 0; r < rows; r++) dst[r * dst_step + c] = src[c * src_step + r];
    else
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++) dst[r * dst_step + c] = src[c * src_step + r];
}

/* A group of at most 16 x 16. */
CNX_INLINE void transpose_group(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t rows,
                                int64_t cols)
{
    const int64_t whole_rows = rows / BLOCK * BLOCK, whole_cols = cols / BLOCK * BLOCK;
    for (int64_t c = 0; c < whole_cols; c += BLOCK)
        for (int64_t r = 0; r < whole_rows; r += BLOCK)
            transpose_block(src + c * src_step + r, src_step, dst + r * dst_step + c, dst_step);
    if (whole_cols < cols)
        transpose_edge(src + whole_cols * src_step, src_step, dst + whole_cols, dst_step, rows, cols - whole_cols);
    if (whole_rows < rows)
        transpose_edge(src + whole_rows, src_step, dst + whole_rows * dst_step, dst_step, rows - whole_rows, whole_cols);
}

/* Three rows interleaved: the planes of an image become its pixels. Element i of the result is one of pixel i / 3, plane i % 3;
 * how many rows are done. */
#if CNX_VL >= 8 && !defined(__clang__)
CNX_INLINE int64_t interleave_three(const float *src, int64_t src_step, float *dst, int64_t rows)
{
    vi from_two[3], with_third[3];
    CNX_UNROLL for (int v = 0; v < 3; v++) CNX_UNROLL for (int i = 0; i < CNX_VL; i++)
    {
        const int pixel = (v * CNX_VL + i) / 3, plane = (v * CNX_VL + i) % 3;
        from_two[v][i] = pixel + (plane == 1 ? CNX_VL : 0);
        with_third[v][i] = plane == 2 ? pixel + CNX_VL : i;
    }
    int64_t r = 0;
    for (; r + CNX_VL <= rows; r += CNX_VL) {
        const vf a = load(src + r), b = load(src + src_step + r), c = load(src + 2 * src_step + r);
        CNX_UNROLL for (int v = 0; v < 3; v++)
            store(dst + 3 * r + v * CNX_VL, __builtin_shuffle(__builtin_shuffle(a, b, from_two[v]), c, with_third[v]));
    }
    return r;
}
#else
CNX_INLINE int64_t interleave_three(const float *src, int64_t src_step, float *dst, int64_t rows)
{
    (void)src, (void)src_step, (void)dst, (void)rows;
    return 0;
}
#endif

/* The reverse, of 2 to 8 channels: pixels that touch become planes, a vector of each at a time, the last of them where the row
 * ends. As many vectors of the source as there are planes: of each pair a shuffle takes what a plane has in it. */
#if CNX_VL >= 8 && !defined(__clang__)
CNX_INLINE vf one_plane(const int planes, const int plane, const vf *pixels)
{
    vi from;
    CNX_UNROLL for (int i = 0; i < CNX_VL; i++) from[i] = i * planes + plane;
    vf result = __builtin_shuffle(pixels[0], pixels[1], from);
    CNX_UNROLL for (int p = 2; p < planes; p += 2)
    {
        const vf other = __builtin_shuffle(pixels[p], pixels[p + 1 < planes ? p + 1 : p], from);
        result = select(from / (2 * CNX_VL) == p / 2, other, result);
    }
    return result;
}

CNX_INLINE void split_planes(const int planes, const float *src, float *dst, int64_t dst_step, int64_t cols)
{
    for (int64_t c = 0; c < cols; c += CNX_VL) {
        const int64_t first = c + CNX_VL <= cols ? c : cols - CNX_VL;
        vf pixels[8];
        CNX_UNROLL for (int v = 0; v < planes; v++) pixels[v] = load(src + first * planes + v * CNX_VL);
        CNX_UNROLL for (int r = 0; r < planes; r++) store(dst + r * dst_step + first, one_plane(planes, r, pixels));
    }
}

CNX_INLINE int split_pixels(const float *src, float *dst, int64_t dst_step, int64_t planes, int64_t cols)
{
    if (cols < CNX_VL) return 0;
    switch (planes) {
    case 2: split_planes(2, src, dst, dst_step, cols); return 1;
    case 3: split_planes(3, src, dst, dst_step, cols); return 1;
    case 4: split_planes(4, src, dst, dst_step, cols); return 1;
    case 5: split_planes(5, src, dst, dst_step, cols); return 1;
    case 6: split_planes(6, src, dst, dst_step, cols); return 1;
    case 7: split_planes(7, src, dst, dst_step, cols); return 1;
    case 8: split_planes(8, src, dst, dst_step, cols); return 1;
    default: return 0;
    }
}
#else
CNX_INLINE int split_pixels(const float *src, float *dst, int64_t dst_step, int64_t planes, int64_t cols)
{
    (void)src, (void)dst, (void)dst_step, (void)planes, (void)cols;
    return 0;
}
#endif

static void transpose(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t cols)
{
    if (rows == 1 && src_step == 1) {
        memcpy(dst, src, (size_t)cols * sizeof(float));
        return;
    }
    if (src_step == rows && split_pixels(src, dst, dst_step, rows, cols)) return;
    if (cols == 3 && dst_step == 3) {
        const int64_t done = interleave_three(src, src_step, dst, rows);
        src += done;
        dst += 3 * done;
        rows -= done;
    }
    if (rows < BLOCK || cols < BLOCK) {
        transpose_edge(src, src_step, dst, dst_step, rows, cols);
        return;
    }
    for (int64_t r = 0; r < rows; r += 16)
        for (int64_t c = 0; c < cols; c += 16)
            transpose_group(src + c * src_step + r, src_step, dst + r * dst_step + c, dst_step,
                            rows - r < 16 ? rows - r : 16, cols - c < 16 ? cols - c : 16);
}
