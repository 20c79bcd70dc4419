/* Transforms of Winograd's convolutions F(m x m, 3 x 3), m = 2 or 4: one tile of (m + 2) x (m + 2) pixels at a time.
 *
 * Design
 *   Y = A^T [(G g G^T) * (B^T d B)] A (A. Lavin, S. Gray, "Fast algorithms for convolutional neural networks", 2016): d pixels
 *   of the source, g taps, Y the m x m pixels of the result, * elementwise.
 *   Points:  A polynomial product is interpolated at 0, 1, -1 and infinity for m = 2; at 0, +-sqrt(1/2), +-sqrt(2) and infinity
 *            for m = 4. The usual 0, +-1, +-2 make errors four times as large: their powers, which are the coefficients,
 *            spread wider. Of the chosen ones the product is 1 and the squares are 1/2 and 2, so few constants remain.
 *   Order:   a transform is separable: the columns of the tile first, a vector of channels each, into 36 vectors on the
 *            stack (L1), then the rows. + and - of a pair of points share their even and odd halves: 12 FMAs for 6 values.
 *   Edges:   pixels come by pointers, so those outside the image are a row of zeros. Outputs beyond the image are not stored.
 *   Weights: in double, rounded once: they are transformed once, and their errors would be in every result.
 */

#define ROOT_HALF 0.70710678118654752440
#define ROOT_2 1.41421356237309504880

/* B^T d; for floats of a vector */
CNX_INLINE void source_points_2(const vf *d, vf *v)
{
    v[0] = d[0] - d[2];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
}

CNX_INLINE void source_points_4(const vf *d, vf *v)
{
    const vf even_a = d[4] - 2.0f * d[2], odd_a = d[3] - 2.0f * d[1];
    const vf even_b = d[4] - 0.5f * d[2], odd_b = d[3] - 0.5f * d[1];
    v[0] = (d[0] + d[4]) - 2.5f * d[2];
    v[1] = even_a + (float)ROOT_HALF * odd_a;
    v[2] = even_a - (float)ROOT_HALF * odd_a;
    v[3] = even_b + (float)ROOT_2 * odd_b;
    v[4] = even_b - (float)ROOT_2 * odd_b;
    v[5] = (d[1] + d[5]) - 2.5f * d[3];
}

/* A^T v */
CNX_INLINE void result_points_2(const vf *v, vf *y)
{
    y[0] = v[0] + (v[1] + v[2]);
    y[1] = (v[1] - v[2]) + v[3];
}

CNX_INLINE void result_points_4(const vf *v, vf *y)
{
    const vf even_a = v[1] + v[2], odd_a = v[1] - v[2], even_b = v[3] + v[4], odd_b = v[3] - v[4];
    y[0] = v[0] + even_a + even_b;
    y[1] = (float)ROOT_HALF * odd_a + (float)ROOT_2 * odd_b;
    y[2] = 0.5f * even_a + 2.0f * even_b;
    y[3] = (float)(0.5 * ROOT_HALF) * odd_a + (float)(2 * ROOT_2) * odd_b + v[5];
}

/* Half a vector of floats, and as many doubles. */
typedef double vd __attribute__((vector_size(CNX_VL * 4)));
typedef float vh __attribute__((vector_size(CNX_VL * 2)));
typedef float vh_mem __attribute__((vector_size(CNX_VL * 2), aligned(4), may_alias));

/* G g; the divisors are the products of the differences between a point and the others. */
CNX_INLINE void weight_points_2(const vd *g, vd *u)
{
    u[0] = g[0];
    u[1] = 0.5 * ((g[0] + g[2]) + g[1]);
    u[2] = 0.5 * ((g[0] + g[2]) - g[1]);
    u[3] = g[2];
}

CNX_INLINE void weight_points_4(const vd *g, vd *u)
{
    const vd even_a = g[0] + 0.5 * g[2], odd_a = ROOT_HALF * g[1], even_b = g[0] + 2.0 * g[2], odd_b = ROOT_2 * g[1];
    u[0] = g[0];
    u[1] = (even_a + odd_a) * (-1 / 1.5);
    u[2] = (even_a - odd_a) * (-1 / 1.5);
    u[3] = (even_b + odd_b) * (1 / 6.0);
    u[4] = (even_b - odd_b) * (1 / 6.0);
    u[5] = g[2];
}

/* A d, the adjoint of A^T: what m results say about the products of the points */
CNX_INLINE void diff_points_2(const vf *d, vf *v)
{
    v[0] = d[0];
    v[1] = d[0] + d[1];
    v[2] = d[0] - d[1];
    v[3] = d[1];
}

CNX_INLINE void diff_points_4(const vf *d, vf *v)
{
    const vf even_a = d[0] + 0.5f * d[2], odd_a = (float)ROOT_HALF * (d[1] + 0.5f * d[3]);
    const vf even_b = d[0] + 2.0f * d[2], odd_b = (float)ROOT_2 * (d[1] + 2.0f * d[3]);
    v[0] = d[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = d[3];
}

/* G^T u, the adjoint of G: three taps from the points */
CNX_INLINE void tap_points_2(const vf *u, vf *g)
{
    const vf even = 0.5f * (u[1] + u[2]);
    g[0] = u[0] + even;
    g[1] = 0.5f * (u[1] - u[2]);
    g[2] = even + u[3];
}

CNX_INLINE void tap_points_4(const vf *u, vf *g)
{
    const vf even_a = (float)(-1 / 1.5) * (u[1] + u[2]), odd_a = (float)(-ROOT_HALF / 1.5) * (u[1] - u[2]);
    const vf even_b = (float)(1 / 6.0) * (u[3] + u[4]), odd_b = (float)(ROOT_2 / 6.0) * (u[3] - u[4]);
    g[0] = u[0] + (even_a + even_b);
    g[1] = odd_a + odd_b;
    g[2] = (0.5f * even_a + 2.0f * even_b) + u[5];
}

/* `left` is the number of channels from c on; only with `part` may it be below a vector. */
#define SOURCE_TILE(M)                                                                                                 \
    CNX_INLINE void source_tile_##M(const float **pixel, int64_t c, int64_t left, int part, float *dst, int64_t step)   \
    {                                                                                                                  \
        vf columns[M + 2][M + 2];                                                                                      \
        CNX_UNROLL for (int j = 0; j < M + 2; j++)                                                                     \
        {                                                                                                              \
            vf d[M + 2], v[M + 2];                                                                                     \
            CNX_UNROLL for (int i = 0; i < M + 2; i++)                                                                 \
            {                                                                                                          \
                const float *p = pixel[i * (M + 2) + j] + c;                                                           \
                d[i] = part ? load_part(p, left) : load(p);                                                            \
            }                                                                                                          \
            source_points_##M(d, v);                                                                                   \
            CNX_UNROLL for (int i = 0; i < M + 2; i++) columns[i][j] = v[i];                                           \
        }                                                                                                              \
        CNX_UNROLL for (int i = 0; i < M + 2; i++)                                                                     \
        {                                                                                                              \
            vf v[M + 2];                                                                                               \
            source_points_##M(columns[i], v);                                                                          \
            CNX_UNROLL for (int j = 0; j < M + 2; j++) store(dst + (i * (M + 2) + j) * step + c, v[j]);                 \
        }                                                                                                              \
    }                                                                                                                  \
    static void winograd_src_##M(const float **pixel, float *dst, int64_t dst_step, int64_t n)                         \
    {                                                                                                                  \
        int64_t c = 0;                                                                                                 \
        for (; c + CNX_VL <= n; c += CNX_VL) source_tile_##M(pixel, c, CNX_VL, 0, dst, dst_step);                       \
        if (c < n) source_tile_##M(pixel, c, n - c, 1, dst, dst_step);                                                 \
    }

#define DIFF_TILE(M)                                                                                                   \
    CNX_INLINE void diff_tile_##M(const float **pixel, int64_t c, int64_t left, int part, float *dst, int64_t step)     \
    {                                                                                                                  \
        vf columns[M + 2][M];                                                                                          \
        CNX_UNROLL for (int j = 0; j < M; j++)                                                                         \
        {                                                                                                              \
            vf d[M], v[M + 2];                                                                                         \
            CNX_UNROLL for (int i = 0; i < M; i++)                                                                     \
            {                                                                                                          \
                const float *p = pixel[i * M + j] + c;                                                                 \
                d[i] = part ? load_part(p, left) : load(p);                                                            \
            }                                                                                                          \
            diff_points_##M(d, v);                                                                                     \
            CNX_UNROLL for (int i = 0; i < M + 2; i++) columns[i][j] = v[i];                                           \
        }                                                                                                              \
        CNX_UNROLL for (int i = 0; i < M + 2; i++)                                                                     \
        {                                                                                                              \
            vf v[M + 2];                                                                                               \
            diff_points_##M(columns[i], v);                                                                            \
            CNX_UNROLL for (int j = 0; j < M + 2; j++) store(dst + (i * (M + 2) + j) * step + c, v[j]);                 \
        }                                                                                                              \
    }                                                                                                                  \
    static void winograd_diff_##M(const float **pixel, float *dst, int64_t dst_step, int64_t n)                        \
    {                                                                                                                  \
        int64_t c = 0;                                                                                                 \
        for (; c + CNX_VL <= n; c += CNX_VL) diff_tile_##M(pixel, c, CNX_VL, 0, dst, dst_step);                         \
        if (c < n) diff_tile_##M(pixel, c, n - c, 1, dst, dst_step);                                                   \
    }

#define TAP_TILES(M)                                                                                                   \
    static void winograd_diff_weights_##M(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t n) \
    {                                                                                                                  \
        for (int64_t c = 0; c < n; c += CNX_VL) {                                                                      \
            vf columns[3][M + 2];                                                                                      \
            CNX_UNROLL for (int j = 0; j < M + 2; j++)                                                                 \
            {                                                                                                          \
                vf u[M + 2], g[3];                                                                                     \
                CNX_UNROLL for (int i = 0; i < M + 2; i++) u[i] = load(src + (i * (M + 2) + j) * src_step + c);         \
                tap_points_##M(u, g);                                                                                  \
                CNX_UNROLL for (int i = 0; i < 3; i++) columns[i][j] = g[i];                                           \
            }                                                                                                          \
            CNX_UNROLL for (int i = 0; i < 3; i++)                                                                     \
            {                                                                                                          \
                vf g[3];                                                                                               \
                tap_points_##M(columns[i], g);                                                                         \
                CNX_UNROLL for (int j = 0; j < 3; j++) store_row(dst + (3 * i + j) * dst_step + c, g[j], n - c);        \
            }                                                                                                          \
        }                                                                                                              \
    }

#define RESULT_TILE(M)                                                                                                 \
    CNX_INLINE void result_tile_##M(const cnx_winograd *w, int64_t c, int64_t left, int part)                          \
    {                                                                                                                  \
        const vf low = splat(w->low), high = splat(w->high);                                                           \
        const vf bias = w->bias ? load(w->bias + c) : (vf){0};                                                         \
        vf columns[M][M + 2];                                                                                          \
        CNX_UNROLL for (int j = 0; j < M + 2; j++)                                                                     \
        {                                                                                                              \
            vf v[M + 2], y[M];                                                                                         \
            CNX_UNROLL for (int i = 0; i < M + 2; i++) v[i] = load(w->src + (i * (M + 2) + j) * w->src_step + c);       \
            result_points_##M(v, y);                                                                                   \
            CNX_UNROLL for (int i = 0; i < M; i++) columns[i][j] = y[i];                                               \
        }                                                                                                              \
        CNX_UNROLL for (int i = 0; i < M; i++)                                                                         \
        {                                                                                                              \
            vf y[M];                                                                                                   \
            if (i >= w->rows) return;                                                                                  \
            result_points_##M(columns[i], y);                                                                          \
            CNX_UNROLL for (int j = 0; j < M; j++)                                                                     \
            {                                                                                                          \
                if (j >= w->cols) break;                                                                               \
                const float *add = w->add + i * w->add_row + j * w->add_pixel + c;                                     \
                float *dst = w->dst + i * w->dst_row + j * w->dst_pixel + c;                                           \
                y[j] += bias;                                                                                          \
                if (w->add) y[j] += part ? load_part(add, left) : load(add);                                           \
                y[j] = min_v(max_v(y[j], low), high);                                                                  \
                if (part)                                                                                              \
                    store_part(dst, y[j], left);                                                                       \
                else                                                                                                   \
                    store(dst, y[j]);                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void winograd_dst_##M(const cnx_winograd *w)                                                                \
    {                                                                                                                  \
        int64_t c = 0;                                                                                                 \
        for (; c + CNX_VL <= w->channels; c += CNX_VL) result_tile_##M(w, c, CNX_VL, 0);                               \
        if (c < w->channels) result_tile_##M(w, c, w->channels - c, 1);                                                \
    }

#define WEIGHT_TILES(M)                                                                                                \
    static void winograd_weights_##M(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t n)      \
    {                                                                                                                  \
        for (int64_t c = 0; c < n; c += CNX_VL / 2) {                                                                  \
            vd columns[M + 2][3];                                                                                      \
            CNX_UNROLL for (int j = 0; j < 3; j++)                                                                     \
            {                                                                                                          \
                vd g[3], u[M + 2];                                                                                     \
                CNX_UNROLL for (int i = 0; i < 3; i++)                                                                 \
                    g[i] = __builtin_convertvector(*(const vh_mem *)(src + (3 * i + j) * src_step + c), vd);            \
                weight_points_##M(g, u);                                                                               \
                CNX_UNROLL for (int i = 0; i < M + 2; i++) columns[i][j] = u[i];                                       \
            }                                                                                                          \
            CNX_UNROLL for (int i = 0; i < M + 2; i++)                                                                 \
            {                                                                                                          \
                vd u[M + 2];                                                                                           \
                weight_points_##M(columns[i], u);                                                                      \
                CNX_UNROLL for (int j = 0; j < M + 2; j++)                                                             \
                    *(vh_mem *)(dst + (i * (M + 2) + j) * dst_step + c) = __builtin_convertvector(u[j], vh);            \
            }                                                                                                          \
        }                                                                                                              \
    }

SOURCE_TILE(2)
SOURCE_TILE(4)
DIFF_TILE(2)
DIFF_TILE(4)
TAP_TILES(2)
TAP_TILES(4)
RESULT_TILE(2)
RESULT_TILE(4)
WEIGHT_TILES(2)
WEIGHT_TILES(4)

static void winograd_src(int32_t m, const float **pixel, float *dst, int64_t dst_step, int64_t n)
{
    if (m == 4)
        winograd_src_4(pixel, dst, dst_step, n);
    else
        winograd_src_2(pixel, dst, dst_step, n);
}

static void winograd_dst(const cnx_winograd *w)
{
    if (w->m == 4)
        winograd_dst_4(w);
    else
        winograd_dst_2(w);
}

static void winograd_weights(int32_t m, const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t n)
{
    if (m == 4)
        winograd_weights_4(src, src_step, dst, dst_step, n);
    else
        winograd_weights_2(src, src_step, dst, dst_step, n);
}

static void winograd_diff(int32_t m, const float **pixel, float *dst, int64_t dst_step, int64_t n)
{
    if (m == 4)
        winograd_diff_4(pixel, dst, dst_step, n);
    else
        winograd_diff_2(pixel, dst, dst_step, n);
}

static void winograd_diff_weights(int32_t m, const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t n)
{
    if (m == 4)
        winograd_diff_weights_4(src, src_step, dst, dst_step, n);
    else
        winograd_diff_weights_2(src, src_step, dst, dst_step, n);
}
