/* One output row of a depthwise convolution whose window's columns are neighbours: 3, 5 or 7 of them, 1 or 2 apart.
 *
 * Design
 *   Loop order: blocks of pixels -> vectors of channels -> rows of the window -> columns of the source.
 *   Blocking:   8 pixels x 1 vector: their sums and one row of weights stay in registers while a source row slides past. A
 *               column is loaded once and serves up to KW sums, where `taps_dot` loads it for each: 10 loads and 3 weights for
 *               24 FMAs (8 pixels, 3 columns at stride 1), so that the FMAs decide, not the loads.
 *   Rows:       a row is cut into blocks of 8 pixels or of 7, whichever recomputes less; the last block ends where the row
 *               ends, and computes again what the one before it did.
 *   Channels:   likewise the last vector ends where the channels end. Fewer than a vector of them are loaded in part.
 *   Borders:    rows of the window outside the image are not given. A block that reaches over the left or right border
 *               looks at each column and leaves out those that do not exist; so no border is ever copied or multiplied.
 *   Prefetch:   of a source beyond L2, the row below the window, and the lines of dst: the hardware does not follow the columns of
 *               a block (32x32x144 from memory: 1.5x; from L2 it would cost 5 %).
 *   Order:      a value takes its taps in the order of (row, column) in every block shape; its bits depend on nothing else.
 */

typedef void (*depthwise_fn)(const cnx_depthwise *t, int64_t pixel, int64_t channel);

CNX_INLINE void depthwise_tile(const int np, const int kw, const int sw, const int border, const int partial,
                               const cnx_depthwise *t, int64_t pixel, int64_t channel)
{
    const int64_t src_col = t->src_col, part = partial ? t->channels - channel : 0;
    const int64_t first = t->first - pixel * sw, last = t->last - pixel * sw;
    const float *src = t->src + pixel * sw * src_col + channel, *weights = t->weights + channel;
    const vf bias = t->bias ? load_block(t->bias + channel, 0, part) : splat(0);
    vf sum[8];
    CNX_UNROLL for (int i = 0; i < np; i++) sum[i] = bias;
    if (t->far)
        CNX_UNROLL for (int i = 0; i < np; i++)
        {
            __builtin_prefetch(t->dst + (pixel + i) * t->dst_col + channel, 1);
            __builtin_prefetch(src + t->rows * t->src_row + (i + kw / 2) * sw * src_col, 0, 2);
        }
    for (int64_t row = t->rows; row > 0; row--) {
        vf w[7];
        const float *column = src;
        CNX_UNROLL for (int k = 0; k < kw; k++) w[k] = load_block(weights + k * t->weight_col, 0, part);
        CNX_UNROLL for (int j = 0; j < (np - 1) * sw + kw; j++)
        {
            if (!border || (j >= first && j < last)) {
                const vf x = load_block(column, 0, part);
                CNX_UNROLL for (int k = 0; k < kw; k++)
                    if (j >= k && (j - k) % sw == 0 && (j - k) / sw < np) sum[(j - k) / sw] += x * w[k];
            }
            column += src_col;
        }
        src += t->src_row;
        weights += t->weight_row;
    }
    float *dst = t->dst + pixel * t->dst_col + channel;
    const vf low = splat(t->low), high = splat(t->high);
    CNX_UNROLL for (int i = 0; i < np; i++)
    {
        const vf y = min_v(max_v(sum[i], low), high);
        if (part)
            store_part(dst + i * t->dst_col, y, part);
        else
            store(dst + i * t->dst_col, y);
    }
}

/* NP pixels: inside the row, at a border; fewer than a vector of channels come in blocks of at most 4 pixels. */
enum { DEPTHWISE_INSIDE, DEPTHWISE_BORDER, DEPTHWISE_PART };
#define DEPTHWISE_TILE(NAME, NP, KW, SW, BORDER, PART)                                                                 \
    static void depthwise_##NAME##_##NP##_##KW##_##SW(const cnx_depthwise *t, int64_t pixel, int64_t channel)          \
    {                                                                                                                  \
        depthwise_tile(NP, KW, SW, BORDER, PART, t, pixel, channel);                                                   \
    }
#define DEPTHWISE_WIDE(NP, KW, SW)                                                                                     \
    DEPTHWISE_TILE(inside, NP, KW, SW, 0, 0)                                                                           \
    DEPTHWISE_TILE(border, NP, KW, SW, 1, 0)
#define DEPTHWISE_NARROW(NP, KW, SW) DEPTHWISE_WIDE(NP, KW, SW) DEPTHWISE_TILE(part, NP, KW, SW, 1, 1)
#define DEPTHWISE_WIDE_ENTRY(NP, KW, SW)                                                                               \
    [SW - 1][KW / 2 - 1][NP] = {depthwise_inside_##NP##_##KW##_##SW, depthwise_border_##NP##_##KW##_##SW},
#define DEPTHWISE_NARROW_ENTRY(NP, KW, SW)                                                                             \
    [SW - 1][KW / 2 - 1][NP] = {depthwise_inside_##NP##_##KW##_##SW, depthwise_border_##NP##_##KW##_##SW,              \
                                depthwise_part_##NP##_##KW##_##SW},

#define DEPTHWISE_BLOCKS(WIDE, NARROW, KW, SW) WIDE(8, KW, SW) WIDE(7, KW, SW) NARROW(4, KW, SW) NARROW(1, KW, SW)
#define DEPTHWISE_WINDOWS(WIDE, NARROW)                                                                                \
    DEPTHWISE_BLOCKS(WIDE, NARROW, 3, 1) DEPTHWISE_BLOCKS(WIDE, NARROW, 5, 1) DEPTHWISE_BLOCKS(WIDE, NARROW, 7, 1)     \
    DEPTHWISE_BLOCKS(WIDE, NARROW, 3, 2) DEPTHWISE_BLOCKS(WIDE, NARROW, 5, 2) DEPTHWISE_BLOCKS(WIDE, NARROW, 7, 2)

DEPTHWISE_WINDOWS(DEPTHWISE_WIDE, DEPTHWISE_NARROW)
static const depthwise_fn depthwise_tiles[2][3][9][3] = {
    DEPTHWISE_WINDOWS(DEPTHWISE_WIDE_ENTRY, DEPTHWISE_NARROW_ENTRY)};

/* Pixels of a block: what cuts `count` of them with the fewest computed twice, the longer of two equals. */
CNX_INLINE int depthwise_pixels(int64_t count, int64_t channels)
{
    if (count < 4) return 1;
    if (count < 7 || channels < CNX_VL) return 4;
    return count == 7 || (count + 6) / 7 * 7 < (count + 7) / 8 * 8 ? 7 : 8;
}

/* The function that follows, on the pixels of a block while they are in the first-level cache. */
CNX_INLINE void depthwise_post(const cnx_depthwise *t, float *dst, int64_t pixels)
{
    unary_rows((int32_t)t->post_op, dst, t->dst_col, dst, t->dst_col, pixels, t->channels, t->post);
}

static void depthwise_row(const cnx_depthwise *t)
{
    const int64_t count = t->count, channels = t->channels, last_vector = channels - CNX_VL;
    const int np = depthwise_pixels(count, channels);
    const depthwise_fn *tiles = depthwise_tiles[t->SW - 1][t->KW / 2 - 1][np];
    for (int64_t begin = 0; begin < count; begin += np) {
        const int64_t pixel = begin < count - np ? begin : count - np;
        const int inside = pixel * t->SW >= t->first && (pixel + np - 1) * t->SW + t->KW <= t->last;
        if (last_vector < 0)
            tiles[DEPTHWISE_PART](t, pixel, 0);
        else
            for (int64_t c = 0; c < channels; c += CNX_VL)
                tiles[inside ? DEPTHWISE_INSIDE : DEPTHWISE_BORDER](t, pixel, c < last_vector ? c : last_vector);
        if (t->post_op >= 0) depthwise_post(t, t->dst + pixel * t->dst_col, np);
    }
}

/* The gradient of the weights, one output row: for each tap (h, k), the sum over pixels of src(h, i * SW + k) * diff_dst(i).
 *   Loop order: blocks of 8 pixels (single ones at the end) -> vectors of channels -> rows of the window -> columns of the source: memory
 *               is read in its own order, which counts for more than keeping the sums in registers along a row (2x from memory).
 *   Blocking:   the diff_dst of a block stays in registers over the window's rows, the KW sums of a row over the block, in two sets
 *               for even and odd pixels, which hides the latency of FMAs; a column is loaded once for up to KW of them.
 *   Order:      block by block, in each its even pixels, then its odd ones: of the shapes alone. */
CNX_INLINE void depthwise_diff_tile(const int np, const int kw, const int sw, const int border, const int partial,
                                    const cnx_depthwise *t, const float *diff_dst, float *diff_weights, int64_t pixel,
                                    int64_t channel)
{
    const int64_t src_col = t->src_col, part = partial ? t->channels - channel : 0;
    const int64_t first = t->first - pixel * sw, last = t->last - pixel * sw;
    const float *src = t->src + pixel * sw * src_col + channel;
    vf diff[8];
    CNX_UNROLL for (int i = 0; i < np; i++) diff[i] = load_block(diff_dst + (pixel + i) * t->dst_col + channel, 0, part);
    if (t->far)
        CNX_UNROLL for (int i = 0; i < np; i++)
        {
            __builtin_prefetch(diff_dst + (t->count + pixel + i) * t->dst_col + channel, 0, 2);
            __builtin_prefetch(src + t->rows * t->src_row + (i + kw / 2) * sw * src_col, 0, 2);
        }
    for (int64_t row = 0; row < t->rows; row++) {
        float *to = diff_weights + row * t->weight_row + channel;
        const float *column = src + row * t->src_row;
        vf sum[2][7];
        CNX_UNROLL for (int k = 0; k < kw; k++)
        {
            sum[0][k] = load_block(to + k * t->weight_col, 0, part);
            sum[1][k] = splat(0);
        }
        CNX_UNROLL for (int j = 0; j < (np - 1) * sw + kw; j++)
        {
            if (!border || (j >= first && j < last)) {
                const vf x = load_block(column, 0, part);
                CNX_UNROLL for (int i = 0; i < np; i++)
                    if (j >= i * sw && j - i * sw < kw) sum[i & 1][j - i * sw] += x * diff[i];
            }
            column += src_col;
        }
        CNX_UNROLL for (int k = 0; k < kw; k++)
        {
            const vf y = sum[0][k] + sum[1][k];
            if (part)
                store_part(to + k * t->weight_col, y, part);
            else
                store(to + k * t->weight_col, y);
        }
    }
}

CNX_INLINE void depthwise_diff_block(const int np, const int kw, const int sw, const int border, const cnx_depthwise *t,
                                     const float *diff_dst, float *diff_weights, int64_t pixel)
{
    int64_t c = 0;
    for (; c + CNX_VL <= t->channels; c += CNX_VL)
        depthwise_diff_tile(np, kw, sw, border, 0, t, diff_dst, diff_weights, pixel, c);
    if (c < t->channels) depthwise_diff_tile(np, kw, sw, 1, 1, t, diff_dst, diff_weights, pixel, c);
}

#define DEPTHWISE_DIFF(KW, SW)                                                                                         \
    static void depthwise_diff_##KW##_##SW(const cnx_depthwise *t, const float *diff_dst, float *diff_weights)         \
    {                                                                                                                  \
        int64_t i = 0;                                                                                                 \
        for (; i + DIFF_PIXELS <= t->count; i += DIFF_PIXELS)                                                          \
            if (i * SW >= t->first && (i + DIFF_PIXELS - 1) * SW + KW <= t->last)                                      \
                depthwise_diff_block(DIFF_PIXELS, KW, SW, 0, t, diff_dst, diff_weights, i);                            \
            else                                                                                                       \
                depthwise_diff_block(DIFF_PIXELS, KW, SW, 1, t, diff_dst, diff_weights, i);                            \
        for (; i < t->count; i++) depthwise_diff_block(1, KW, SW, 1, t, diff_dst, diff_weights, i);                    \
    }
#define DIFF_PIXELS (CNX_VL == 16 ? 8 : 4) /* with two sets of sums they fit the registers of the smaller levels */
DEPTHWISE_DIFF(3, 1)
DEPTHWISE_DIFF(5, 1)
DEPTHWISE_DIFF(7, 1)
DEPTHWISE_DIFF(3, 2)
DEPTHWISE_DIFF(5, 2)
DEPTHWISE_DIFF(7, 2)

static void depthwise_diff_row(const cnx_depthwise *t, const float *diff_dst, float *diff_weights)
{
    static void (*const of[2][3])(const cnx_depthwise *, const float *, float *) = {
        {depthwise_diff_3_1, depthwise_diff_5_1, depthwise_diff_7_1},
        {depthwise_diff_3_2, depthwise_diff_5_2, depthwise_diff_7_2}};
    of[t->SW - 1][t->KW / 2 - 1](t, diff_dst, diff_weights);
}
