/* Windows over pixels: depthwise convolution and pooling, forward, and the two pooling gradients that need the source.
 *
 * Design
 *   Loop order: blocks of 4 pixels -> blocks of channels -> taps -> vectors and pixels of the block. Its sums stay in
 *               registers over the taps; a tap's weights are loaded once for the 4 pixels.
 *   Blocking:   4 pixels x 2 vectors; single pixels 1 x 4. So 8 or 4 independent sums, 2 weights and a product fit the
 *               16 registers of the smaller levels. Channels go inside pixels: memory is read in its own order, and the
 *               columns that neighbouring windows share are still in the first-level cache.
 *   Order:      a value takes its taps in the order of `offset` in every block shape; its bits depend on nothing else.
 *   Edges:      the last channels are a block of one vector, loaded and stored in part.
 *   Gradients:  where windows share pixels, shares are added to what is there, pixel by pixel in order; elsewhere each is
 *               written once. Then blocks of channels may overlap, since both write the same: the last one is a whole vector,
 *               and 4 to 8 channels are two vectors of 4. A masked store that crosses a cache line takes some 10 cycles:
 *               LeNet-5's 12544 windows of 2 x 2 pixels of 6 channels take 94 us so, and 120 us under a mask (Zen 4).
 *   One tile function serves all; `kind` and the block's shape are constants wherever it is inlined.
 */

enum taps_kind { TAPS_DOT, TAPS_MAX, TAPS_SUM, TAPS_LP_1, TAPS_LP_2, TAPS_LP };

/* One vector of a block: `part` is 0, or how much of the only vector there is. */
CNX_INLINE vf load_block(const float *p, int v, int64_t part)
{
    return part ? load_part(p, part) : load(p + v * CNX_VL);
}

/* A tap's value x (and weight w) joins the sum. */
CNX_INLINE vf taps_join(const enum taps_kind kind, vf sum, vf x, vf w, float power)
{
    switch (kind) {
    case TAPS_DOT: return sum + x * w;
    case TAPS_MAX: return maximum_v(sum, x);
    case TAPS_SUM: return sum + x;
    case TAPS_LP_1: return sum + abs_v(x);
    case TAPS_LP_2: return sum + x * x;
    default: return sum + pow_v(abs_v(x), power);
    }
}

CNX_INLINE vf taps_finish(const enum taps_kind kind, vf sum, vf old, const cnx_taps *t)
{
    switch (kind) {
    case TAPS_DOT: return t->accumulate ? old + sum : min_v(max_v(sum, splat(t->low)), splat(t->high));
    case TAPS_SUM: return t->accumulate ? old + t->scale * sum : t->scale * sum;
    case TAPS_LP_2: return sqrt_v(sum);
    case TAPS_LP: return pow_v(sum, 1 / t->power);
    default: return sum;
    }
}

CNX_INLINE void taps_tile(const enum taps_kind kind, const int np, const int nv, const cnx_taps *t, int64_t pixel,
                          int64_t c, int64_t part)
{
    const int64_t src_step = t->src_step;
    const float *src = t->src + pixel * src_step + c;
    vf sum[4][4];
    CNX_UNROLL for (int v = 0; v < nv; v++)
    {
        const vf bias = kind == TAPS_DOT && t->bias ? load_block(t->bias + c, v, part) : splat(0);
        CNX_UNROLL for (int i = 0; i < np; i++) sum[i][v] = kind == TAPS_MAX ? splat(-INFINITE) : bias;
    }
    for (int64_t k = 0; k < t->n_taps; k++) {
        const float *tap = src + t->offset[k];
        CNX_UNROLL for (int v = 0; v < nv; v++)
        {
            const vf w = kind == TAPS_DOT ? load_block(t->weights + t->weight_offset[k] + c, v, part) : splat(0);
            CNX_UNROLL for (int i = 0; i < np; i++)
                sum[i][v] = taps_join(kind, sum[i][v], load_block(tap + i * src_step, v, part), w, t->power);
        }
    }
    CNX_UNROLL for (int i = 0; i < np; i++) CNX_UNROLL for (int v = 0; v < nv; v++)
    {
        float *dst = t->dst + (pixel + i) * t->dst_step + c;
        const vf old = t->accumulate ? load_block(dst, v, part) : splat(0);
        const vf y = taps_finish(kind, sum[i][v], old, t);
        if (part)
            store_part(dst, y, part);
        else
            store(dst + v * CNX_VL, y);
    }
}

CNX_INLINE void taps_pixels(const enum taps_kind kind, const int np, const int nv, const cnx_taps *t, int64_t pixel)
{
    const int64_t channels = t->channels;
    int64_t c = 0;
    for (; c + nv * CNX_VL <= channels; c += nv * CNX_VL) taps_tile(kind, np, nv, t, pixel, c, 0);
    if (nv > 1)
        for (; c + CNX_VL <= channels; c += CNX_VL) taps_tile(kind, np, 1, t, pixel, c, 0);
    if (c < channels) taps_tile(kind, np, 1, t, pixel, c, channels - c);
}

/* On a copy of the struct: for all the compiler knows, a store of floats might change the original. */
CNX_INLINE void taps_run(const enum taps_kind kind, const cnx_taps *args)
{
    const cnx_taps copy = *args, *t = &copy;
    int64_t pixel = 0;
    for (; pixel + 4 <= t->count; pixel += 4) taps_pixels(kind, 4, 2, t, pixel);
    for (; pixel < t->count; pixel++) taps_pixels(kind, 1, 4, t, pixel);
}

static void taps_dot(const cnx_taps *t) { taps_run(TAPS_DOT, t); }
static void taps_max(const cnx_taps *t) { taps_run(TAPS_MAX, t); }
static void taps_sum(const cnx_taps *t) { taps_run(TAPS_SUM, t); }

static void taps_lp(const cnx_taps *t)
{
    if (t->power == 1)
        taps_run(TAPS_LP_1, t);
    else if (t->power == 2)
        taps_run(TAPS_LP_2, t);
    else /* a logarithm and an exponential per tap: registers are for them */
        for (int64_t pixel = 0; pixel < t->count; pixel++) taps_pixels(TAPS_LP, 1, 1, t, pixel);
}

/* sign(x) (|x| / dst)^(power - 1): the quotient is at most 1, so no power overflows. */
CNX_INLINE vf lp_slope(vf x, vf dst, float power)
{
    const vf ratio = abs_v(x) / dst;
    const vf magnitude = power == 1 ? splat(1) : power == 2 ? ratio : pow_v(ratio, power - 1);
    return select((dst == 0) | (x == 0), splat(0), copy_sign(magnitude, x));
}

/* What a tap receives: on top of what is there, or of a zero, which gives the same bits. */
CNX_INLINE void give_block(const int accumulate, float *target, vf share, int64_t part)
{
    const vf sum = (accumulate ? load_block(target, 0, part) : splat(0)) + share;
    if (part)
        store_part(target, sum, part);
    else
        store(target, sum);
}

/* Gradients of one pixel, of a vector of channels or `part` of one. */
CNX_INLINE void taps_diff_block(const enum taps_kind kind, const int accumulate, const cnx_taps *t, const float *src,
                                const float *dst, const float *diff_dst, float *diff_src, const int64_t *diff_offset,
                                int64_t part)
{
    const vf y = load_block(dst, 0, part), diff = load_block(diff_dst, 0, part);
    vi open = splat_i(-1); /* channels whose maximum is still to be met */
    for (int64_t k = 0; k < t->n_taps; k++) {
        const vf x = load_block(src + t->offset[k], 0, part);
        float *target = diff_src + diff_offset[k];
        if (kind == TAPS_MAX) {
            const vi hit = (x == y) & open;
            give_block(accumulate, target, (vf)((vi)diff & hit), part);
            open &= ~hit;
        } else
            give_block(accumulate, target, diff * lp_slope(x, y, t->power), part);
    }
}

/* Four channels, whatever the vectors of the level have. */
typedef float vf4 __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));
typedef float vf4_mem __attribute__((vector_size(16), aligned(4), may_alias));

/* taps_diff_block of a maximum, overwriting. */
CNX_INLINE void max_diff_four(const cnx_taps *t, const float *src, const float *dst, const float *diff_dst, float *diff_src,
                              const int64_t *diff_offset)
{
    const vf4 y = *(const vf4_mem *)dst, diff = *(const vf4_mem *)diff_dst;
    vi4 open = (vi4){0} - 1;
    for (int64_t k = 0; k < t->n_taps; k++) {
        const vi4 hit = (*(const vf4_mem *)(src + t->offset[k]) == y) & open;
        *(vf4_mem *)(diff_src + diff_offset[k]) = (vf4){0} + (vf4)((vi4)diff & hit);
        open &= ~hit;
    }
}

CNX_INLINE void taps_diff_pixel(const enum taps_kind kind, const int accumulate, const cnx_taps *t, const float *src,
                                const float *dst, const float *diff_dst, float *diff_src, const int64_t *diff_offset)
{
    const int64_t channels = t->channels;
    if (kind == TAPS_MAX && !accumulate && channels >= 4 && channels <= 8 && channels < CNX_VL) {
        max_diff_four(t, src, dst, diff_dst, diff_src, diff_offset);
        const int64_t last = channels - 4;
        max_diff_four(t, src + last, dst + last, diff_dst + last, diff_src + last, diff_offset);
        return;
    }
    int64_t c = 0, part = 0;
    for (; c + CNX_VL <= channels; c += CNX_VL)
        taps_diff_block(kind, accumulate, t, src + c, dst + c, diff_dst + c, diff_src + c, diff_offset, 0);
    if (c == channels)
        return;
    if (!accumulate && channels >= CNX_VL)
        c = channels - CNX_VL;
    else
        part = channels - c;
    taps_diff_block(kind, accumulate, t, src + c, dst + c, diff_dst + c, diff_src + c, diff_offset, part);
}

CNX_INLINE void taps_diff_run(const enum taps_kind kind, const int accumulate, const cnx_taps *args, const float *diff_dst,
                              int64_t diff_dst_step, float *diff_src, int64_t diff_src_step, const int64_t *diff_offset)
{
    const cnx_taps copy = *args, *t = &copy;
    for (int64_t i = 0; i < t->count; i++)
        taps_diff_pixel(kind, accumulate, t, t->src + i * t->src_step, t->dst + i * t->dst_step,
                        diff_dst + i * diff_dst_step, diff_src + i * diff_src_step, diff_offset);
}

static void taps_max_diff(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                          int64_t diff_src_step, const int64_t *diff_offset)
{
    if (t->accumulate)
        taps_diff_run(TAPS_MAX, 1, t, diff_dst, diff_dst_step, diff_src, diff_src_step, diff_offset);
    else
        taps_diff_run(TAPS_MAX, 0, t, diff_dst, diff_dst_step, diff_src, diff_src_step, diff_offset);
}

static void taps_lp_diff(const cnx_taps *t, const float *diff_dst, int64_t diff_dst_step, float *diff_src,
                         int64_t diff_src_step, const int64_t *diff_offset)
{
    if (t->accumulate)
        taps_diff_run(TAPS_LP, 1, t, diff_dst, diff_dst_step, diff_src, diff_src_step, diff_offset);
    else
        taps_diff_run(TAPS_LP, 0, t, diff_dst, diff_dst_step, diff_src, diff_src_step, diff_offset);
}

/* The first form of these two: one pixel, accumulating. */
static void taps_max_backward(const cnx_taps *t, const float *diff_dst, float *diff_src, const int64_t *diff_offset)
{
    cnx_taps pixel = *t;
    pixel.count = 1;
    taps_diff_run(TAPS_MAX, 1, &pixel, diff_dst, 0, diff_src, 0, diff_offset);
}

static void taps_lp_backward(const cnx_taps *t, const float *diff_dst, float *diff_src, const int64_t *diff_offset)
{
    cnx_taps pixel = *t;
    pixel.count = 1;
    taps_diff_run(TAPS_LP, 1, &pixel, diff_dst, 0, diff_src, 0, diff_offset);
}
