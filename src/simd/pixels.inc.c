/* A sum of taps with pixels in the lanes: for so few filters that a vector of them would be mostly empty.
 *
 * Design
 *   Loop order: vectors of pixels, some at once -> blocks of filters -> the terms of K -> V loads of pixels, F broadcasts of
 *               weights, F*V multiply-adds -> the result's planes, interleaved to pixels while they are in L1.
 *   Blocking:   F*V + V + 1 <= the registers of the level. Neighbouring vectors may lie in neighbouring rows: a row of 28 pixels
 *               is two vectors, of which a tile of 6 filters takes four.
 *   Lanes:      a lane sees its own pixel's window alone, and adds its terms in the order of K: the bits are those of the
 *               tile with filters in the lanes (gemm.inc.c), infinities and NaNs too.
 *   Pools:      the largest of 2 x 2 pixels is taken from the planes: two vectors of each of two rows become one.
 *   Edges:      a vector is always computed whole, and stored as far as the row goes.
 */

#if CNX_VL == 16 /* 32 registers */
#define MAX_FILTERS 8
#define PIXEL_VECTORS {8, 8, 6, 5, 4, 4, 3, 3}
#define PIXEL_TILES(T)                                                                                                 \
    T(1, 1) T(1, 2) T(1, 3) T(1, 4) T(1, 5) T(1, 6) T(1, 7) T(1, 8)                                                    \
    T(2, 1) T(2, 2) T(2, 3) T(2, 4) T(2, 5) T(2, 6) T(2, 7) T(2, 8)                                                    \
    T(3, 1) T(3, 2) T(3, 3) T(3, 4) T(3, 5) T(3, 6)                                                                    \
    T(4, 1) T(4, 2) T(4, 3) T(4, 4) T(4, 5)                                                                            \
    T(5, 1) T(5, 2) T(5, 3) T(5, 4) T(6, 1) T(6, 2) T(6, 3) T(6, 4)                                                    \
    T(7, 1) T(7, 2) T(7, 3) T(8, 1) T(8, 2) T(8, 3)
#define PIXEL_FILTERS(T) T(1) T(2) T(3) T(4) T(5) T(6) T(7) T(8)
#else /* 16 registers; without FMA a product needs one more */
#define MAX_FILTERS 6
#define PIXEL_VECTORS {6, 4, 3, 2, 2, 2}
#define PIXEL_TILES(T)                                                                                                 \
    T(1, 1) T(1, 2) T(1, 3) T(1, 4) T(1, 5) T(1, 6) T(2, 1) T(2, 2) T(2, 3) T(2, 4)                                    \
    T(3, 1) T(3, 2) T(3, 3) T(4, 1) T(4, 2) T(5, 1) T(5, 2) T(6, 1) T(6, 2)
#define PIXEL_FILTERS(T) T(1) T(2) T(3) T(4) T(5) T(6)
#endif
#define MAX_PIXEL_VECTORS 8

/* Where a vector of pixels is read and written, and how many of them there are. */
typedef struct pixel_vector {
    const float *src;
    float *dst;
    int64_t pixels;
} pixel_vector;

typedef void (*pixels_fn)(const cnx_pixels *g, const float *weights, const float *bias, const pixel_vector *at,
                          float *planes);

#define PIXELS_TILE(F, V)                                                                                              \
    static void pixels_##F##x##V(const cnx_pixels *g, const float *weights, const float *bias, const pixel_vector *at,  \
                                 float *planes)                                                                        \
    {                                                                                                                  \
        vf acc[F][V];                                                                                                  \
        const float *src[V];                                                                                           \
        const int64_t *offset = g->offset, *end = offset + g->depth;                                                   \
        const int64_t weights_row = g->weights_row;                                                                    \
        UNROLL for (int v = 0; v < V; v++) src[v] = at[v].src;                                                         \
        UNROLL for (int f = 0; f < F; f++) UNROLL for (int v = 0; v < V; v++) acc[f][v] = (vf){0};                     \
        for (; offset < end; offset++, weights += weights_row) {                                                       \
            vf x[V];                                                                                                   \
            UNROLL for (int v = 0; v < V; v++) x[v] = load(src[v] + *offset);                                          \
            UNROLL for (int f = 0; f < F; f++)                                                                         \
            {                                                                                                          \
                const vf w = splat(weights[f]);                                                                        \
                UNROLL for (int v = 0; v < V; v++) acc[f][v] += x[v] * w;                                              \
            }                                                                                                          \
        }                                                                                                              \
        const vf low = splat(g->low), high = splat(g->high);                                                           \
        UNROLL for (int f = 0; f < F; f++)                                                                             \
        {                                                                                                              \
            if (bias)                                                                                                  \
                UNROLL for (int v = 0; v < V; v++) acc[f][v] += splat(bias[f]);                                        \
            UNROLL for (int v = 0; v < V; v++)                                                                         \
                store(planes + (v * F + f) * CNX_VL, min_v(max_v(acc[f][v], low), high));                              \
        }                                                                                                              \
    }

/* One vector of F interleaved planes, number j: pairs of planes are shuffled alike, and each lane takes the pair of its own. */
#if CNX_VL >= 8 && !defined(__clang__)
CNX_INLINE vf interleaved(const int F, const int j, const float *planes)
{
    vi from, pair;
    CNX_UNROLL for (int i = 0; i < CNX_VL; i++)
    {
        const int pixel = (j * CNX_VL + i) / F, plane = (j * CNX_VL + i) % F;
        from[i] = pixel + (plane & 1 ? CNX_VL : 0);
        pair[i] = plane / 2;
    }
    vf result = {0};
    CNX_UNROLL for (int p = 0; p < F; p += 2)
    {
        const vf even = load(planes + p * CNX_VL), odd = p + 1 < F ? load(planes + (p + 1) * CNX_VL) : even;
        const vf shuffled = __builtin_shuffle(even, odd, from);
        result = p ? select(pair == p / 2, shuffled, result) : shuffled;
    }
    return result;
}
#else
CNX_INLINE vf interleaved(const int F, const int j, const float *planes)
{
    float lane[CNX_VL];
    CNX_UNROLL for (int i = 0; i < CNX_VL; i++)
        lane[i] = planes[(j * CNX_VL + i) % F * CNX_VL + (j * CNX_VL + i) / F];
    return load(lane);
}
#endif

#define STORE_PIXELS(F)                                                                                                \
    static void store_pixels_##F(const float *planes, float *dst, int64_t dst_pixel, int64_t pixels)                    \
    {                                                                                                                  \
        if (dst_pixel == F) {                                                                                          \
            UNROLL for (int j = 0; j < F; j++)                                                                         \
                store_row(dst + j * CNX_VL, interleaved(F, j, planes), pixels * F - j * CNX_VL);                       \
            return;                                                                                                    \
        }                                                                                                              \
        float lane[F * CNX_VL];                                                                                        \
        UNROLL for (int j = 0; j < F; j++) store(lane + j * CNX_VL, interleaved(F, j, planes));                        \
        for (int64_t i = 0; i < pixels; i++) memcpy(dst + i * dst_pixel, lane + i * F, F * sizeof(float));             \
    }

PIXEL_TILES(PIXELS_TILE)
PIXEL_FILTERS(STORE_PIXELS)

#define PIXELS_ENTRY(F, V) [F - 1][V] = pixels_##F##x##V,
#define STORE_ENTRY(F) [F - 1] = store_pixels_##F,
static const pixels_fn pixel_tiles[MAX_FILTERS][MAX_PIXEL_VECTORS + 1] = {PIXEL_TILES(PIXELS_ENTRY)};
static void (*const pixel_stores[MAX_FILTERS])(const float *, float *, int64_t, int64_t) = {PIXEL_FILTERS(STORE_ENTRY)};
static const int pixel_vectors[MAX_FILTERS] = PIXEL_VECTORS;

/* `count` vectors of pixels from number `first` on, counted along the rows. */
CNX_INLINE void locate_pixels(const cnx_pixels *g, int64_t first, int64_t count, pixel_vector *at)
{
    const int64_t in_row = (g->cols + CNX_VL - 1) / CNX_VL;
    int64_t row = first / in_row, col = first % in_row * CNX_VL;
    for (int64_t i = 0; i < count; i++) {
        at[i].src = g->src + row * g->src_row + col;
        at[i].dst = g->dst + row * g->dst_row + col * g->dst_pixel;
        at[i].pixels = g->cols - col < CNX_VL ? g->cols - col : CNX_VL;
        col += CNX_VL;
        if (col >= g->cols) {
            col = 0;
            row++;
        }
    }
}

/* Every other lane of two vectors, from lane `first` on. */
CNX_INLINE vf every_other(const int first, vf a, vf b)
{
#ifdef __clang__
    vf result;
    CNX_UNROLL for (int i = 0; i < CNX_VL; i++) result[i] = i < CNX_VL / 2 ? a[2 * i + first] : b[2 * i + first - CNX_VL];
    return result;
#else
    vi lanes;
    CNX_UNROLL for (int i = 0; i < CNX_VL; i++) lanes[i] = 2 * i + first;
    return __builtin_shuffle(a, b, lanes);
#endif
}

/* Planes of two vectors, the left and the right half, of each of two rows (upper left, lower left, upper right, lower right) to
 * their maxima, in the order in which a pool meets its pixels. */
CNX_INLINE void pool_planes(int64_t filters, float *planes, int narrow)
{
    for (int64_t f = 0; f < filters; f++) {
        float *plane = planes + f * CNX_VL;
        vf half[4];
        CNX_UNROLL for (int v = 0; v < 4; v++)
            half[v] = load(plane + (narrow ? v % 2 : v) * filters * CNX_VL);
        vf largest = maximum_v(every_other(0, half[0], half[2]), every_other(1, half[0], half[2]));
        largest = maximum_v(largest, every_other(0, half[1], half[3]));
        store(plane, maximum_v(largest, every_other(1, half[1], half[3])));
    }
}

/* One vector of pooled pixels with all filters; `narrow`: the right half is not needed. */
CNX_INLINE void pooled_vector(const cnx_pixels *g, const pixel_vector *at, int narrow, int64_t blocks)
{
    float planes[4 * MAX_FILTERS * CNX_VL];
    const int count = narrow ? 2 : 4;
    for (int64_t f = 0, block = 0; block < blocks; block++) {
        const int64_t n = (g->filters - f + blocks - block - 1) / (blocks - block);
        const float *bias = g->bias ? g->bias + f : NULL;
        const int step = pixel_vectors[n - 1] < count ? 2 : count;
        for (int v = 0; v < count; v += step)
            pixel_tiles[n - 1][step](g, g->weights + f, bias, at + v, planes + v * n * CNX_VL);
        pool_planes(n, planes, narrow);
        pixel_stores[n - 1](planes, at->dst + f, g->dst_pixel, at->pixels);
        f += n;
    }
}

static void pooled_rows(const cnx_pixels *g, int64_t blocks)
{
    for (int64_t row = 0; row < g->rows; row++)
        for (int64_t col = 0; col < g->cols; col += CNX_VL) {
            pixel_vector at[4];
            for (int v = 0; v < 4; v++)
                at[v].src = g->src + (2 * row + v % 2) * g->src_row + 2 * col + v / 2 * CNX_VL;
            at->dst = g->dst + row * g->dst_row + col * g->dst_pixel;
            at->pixels = g->cols - col < CNX_VL ? g->cols - col : CNX_VL;
            pooled_vector(g, at, at->pixels <= CNX_VL / 2, blocks);
        }
}

static void pixel_rows(const cnx_pixels *g)
{
    const int64_t blocks = (g->filters + MAX_FILTERS - 1) / MAX_FILTERS;
    if (g->pool == 2) {
        pooled_rows(g, blocks);
        return;
    }
    const int64_t widest = (g->filters + blocks - 1) / blocks;
    const int64_t total = g->rows * ((g->cols + CNX_VL - 1) / CNX_VL);
    const int64_t tiles = (total + pixel_vectors[widest - 1] - 1) / pixel_vectors[widest - 1];
    pixel_vector at[MAX_PIXEL_VECTORS];
    float planes[MAX_PIXEL_VECTORS * MAX_FILTERS * CNX_VL];
    for (int64_t first = 0, i = 0; i < tiles; i++) {
        const int64_t count = (total - first + tiles - i - 1) / (tiles - i);
        locate_pixels(g, first, count, at);
        for (int64_t f = 0, block = 0; block < blocks; block++) {
            const int64_t n = (g->filters - f + blocks - block - 1) / (blocks - block);
            pixel_tiles[n - 1][count](g, g->weights + f, g->bias ? g->bias + f : NULL, at, planes);
            for (int64_t v = 0; v < count; v++)
                pixel_stores[n - 1](planes + v * n * CNX_VL, at[v].dst + f, g->dst_pixel, at[v].pixels);
            f += n;
        }
        first += count;
    }
}

/* The gradient of the weights.
 *
 *   Loop order: blocks of filters -> blocks of terms -> vectors of pixels: T loads of the source, F of diff, F*T multiply-adds.
 *   Blocking:   F*T + min(F, T) + 1 <= the registers of the level. The F planes of diff stay in L1 for all terms. What is
 *               multiplied three times or less, GCC would load as often, and loads then decide (84 GFLOP/s of 117, not 116).
 *   Order:      a call begins at zero, and its sums are added to those of the calls before: short runs, whose lanes are
 *               folded once, at the end.
 *   Edges:      none: places between the rows are like pixels, where diff is zero.
 */
#if CNX_VL == 16
#define DIFF_TERMS {8, 8, 8, 6, 5, 4, 3, 3}
#define DIFF_TILES(T)                                                                                                  \
    T(1, 1) T(1, 2) T(1, 3) T(1, 4) T(1, 5) T(1, 6) T(1, 7) T(1, 8)                                                    \
    T(2, 1) T(2, 2) T(2, 3) T(2, 4) T(2, 5) T(2, 6) T(2, 7) T(2, 8)                                                    \
    T(3, 1) T(3, 2) T(3, 3) T(3, 4) T(3, 5) T(3, 6) T(3, 7) T(3, 8)                                                    \
    T(4, 1) T(4, 2) T(4, 3) T(4, 4) T(4, 5) T(4, 6)                                                                    \
    T(5, 1) T(5, 2) T(5, 3) T(5, 4) T(5, 5) T(6, 1) T(6, 2) T(6, 3) T(6, 4)                                            \
    T(7, 1) T(7, 2) T(7, 3) T(8, 1) T(8, 2) T(8, 3)
#else
#define DIFF_TERMS {6, 6, 4, 3, 2, 2}
#define DIFF_TILES(T)                                                                                                  \
    T(1, 1) T(1, 2) T(1, 3) T(1, 4) T(1, 5) T(1, 6) T(2, 1) T(2, 2) T(2, 3) T(2, 4) T(2, 5) T(2, 6)                    \
    T(3, 1) T(3, 2) T(3, 3) T(3, 4) T(4, 1) T(4, 2) T(4, 3) T(5, 1) T(5, 2) T(6, 1) T(6, 2)
#endif
#define MAX_DIFF_TERMS 8

/* The same vector, which the compiler has to load once. */
CNX_INLINE vf in_register(vf v)
{
#if defined(__x86_64__) && !defined(__clang__)
    __asm__("" : "+v"(v));
#endif
    return v;
}

typedef void (*diff_fn)(const cnx_pixels_diff *g, const int64_t *offset, const float *diff, float *sums);

#define PIXEL_DIFF_TILE(F, T)                                                                                          \
    static void pixels_diff_##F##x##T(const cnx_pixels_diff *g, const int64_t *offset, const float *diff, float *sums) \
    {                                                                                                                  \
        vf acc[T][F];                                                                                                  \
        const float *src[T];                                                                                           \
        const int64_t plane = g->diff_plane, count = g->count, sums_row = g->filters * CNX_VL;                         \
        UNROLL for (int t = 0; t < T; t++) src[t] = g->src + offset[t];                                                \
        UNROLL for (int t = 0; t < T; t++) UNROLL for (int f = 0; f < F; f++) acc[t][f] = (vf){0};                     \
        for (int64_t i = 0; i < count; i += CNX_VL) {                                                                  \
            vf few[F < T ? F : T];                                                                                     \
            UNROLL for (int j = 0; j < (F < T ? F : T); j++)                                                           \
                few[j] = in_register(load(F < T ? diff + j * plane + i : src[j % T] + i));                             \
            UNROLL for (int j = 0; j < (F < T ? T : F); j++)                                                           \
            {                                                                                                          \
                const vf one = in_register(load(F < T ? src[j % T] + i : diff + j * plane + i));                       \
                UNROLL for (int m = 0; m < (F < T ? F : T); m++)                                                       \
                    acc[F < T ? j % T : m][F < T ? m : j % F] += few[m] * one;                                         \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int t = 0; t < T; t++) UNROLL for (int f = 0; f < F; f++)                                          \
        {                                                                                                              \
            float *sum = sums + t * sums_row + f * CNX_VL;                                                             \
            store(sum, g->accumulate ? load(sum) + acc[t][f] : acc[t][f]);                                             \
        }                                                                                                              \
    }

DIFF_TILES(PIXEL_DIFF_TILE)

#define DIFF_ENTRY(F, T) [F - 1][T] = pixels_diff_##F##x##T,
static const diff_fn diff_tiles[MAX_FILTERS][MAX_DIFF_TERMS + 1] = {DIFF_TILES(DIFF_ENTRY)};
static const int diff_terms[MAX_FILTERS] = DIFF_TERMS;

CNX_INLINE void add_lanes(const cnx_pixels_diff *g)
{
    for (int64_t k = 0; k < g->depth; k++)
        for (int64_t f = 0; f < g->filters; f++)
            g->dst[g->place[k] * g->dst_row + f] = sum_lanes(load(g->sums + (k * g->filters + f) * CNX_VL));
}

static void pixels_diff_weights(const cnx_pixels_diff *g)
{
    const int64_t blocks = (g->filters + MAX_FILTERS - 1) / MAX_FILTERS;
    for (int64_t f = 0, block = 0; block < blocks; block++) {
        const int64_t n = (g->filters - f + blocks - block - 1) / (blocks - block);
        const int64_t tiles = (g->depth + diff_terms[n - 1] - 1) / diff_terms[n - 1];
        for (int64_t k = 0, i = 0; i < tiles; i++) {
            const int64_t terms = (g->depth - k + tiles - i - 1) / (tiles - i);
            diff_tiles[n - 1][terms](g, g->offset + k, g->diff + f * g->diff_plane,
                                     g->sums + (k * g->filters + f) * CNX_VL);
            k += terms;
        }
        f += n;
    }
    if (g->dst) add_lanes(g);
}
