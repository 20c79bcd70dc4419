/* The register tile of a matrix product: MR rows x NV vectors of C stay in registers while K runs.
 *
 * Design
 *   Loop order: rows of the strip in tiles of MR -> segments of K -> k -> NV loads of B, MR broadcasts of A, MR*NV FMAs.
 *   Blocking:   MR*NV + NV + 1 <= the registers of the level, and MR*NV >= 8 so that FMA latency stays hidden. B is read
 *               once per tile, so a tall tile needs less bandwidth from B and a wide one less from A.
 *   Rows:       a strip is cut into tiles of almost equal height (7 rows are 4 + 3, not 6 + 1): a tile of one row runs at
 *               half speed.
 *   Edges:      a tile always computes full vectors. Where cols ends inside the panel it works on a copy of C.
 *   Prefetch:   the tile's lines of C and `add` before K runs (1x1 layers of 56x56 maps: 5 to 10 %), and, while it runs, MR
 *               floats of A a step, those of the next tile where rows touch, into L2: the hardware follows 14 short streams
 *               badly (144 -> 24 channels from memory: 1.9x; into L1 instead, long rows pushed out what was in use). gemm_outer
 *               likewise asks for the columns that follow its own (4 % of the gradients of weights from memory).
 *   Addresses:  gemm_rows keeps one pointer per three rows ([p], [p + s], [p + 2s]): with one pointer per row, GCC runs
 *               out of integer registers at 12 rows and more.
 */

#if CNX_VL == 16 /* 32 registers */
#define CNX_TILE_ROWS {24, 14, 9, 6}
#define TILES(T)                                                                                                       \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1) T(9, 1) T(10, 1) T(11, 1) T(12, 1) T(13, 1)         \
    T(14, 1) T(15, 1) T(16, 1) T(17, 1) T(18, 1) T(19, 1) T(20, 1) T(21, 1) T(22, 1) T(23, 1) T(24, 1)                 \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2) T(7, 2) T(8, 2) T(9, 2) T(10, 2) T(11, 2) T(12, 2) T(13, 2)         \
    T(14, 2)                                                                                                           \
    T(1, 3) T(2, 3) T(3, 3) T(4, 3) T(5, 3) T(6, 3) T(7, 3) T(8, 3) T(9, 3)                                             \
    T(1, 4) T(2, 4) T(3, 4) T(4, 4) T(5, 4) T(6, 4)
#else /* 16 registers; without FMA a product needs one more */
#define CNX_TILE_ROWS {8, 6}
#define TILES(T)                                                                                                       \
    T(1, 1) T(2, 1) T(3, 1) T(4, 1) T(5, 1) T(6, 1) T(7, 1) T(8, 1)                                                    \
    T(1, 2) T(2, 2) T(3, 2) T(4, 2) T(5, 2) T(6, 2)
#endif
#define MAX_TILE_ROWS 24

/* One tile: a and c already point at its first row, c and add have the row strides given. */
typedef void (*tile_fn)(const cnx_gemm *g, const float *a, float *c, int64_t c_row, const float *add, int64_t add_row);

#define UNROLL _Pragma("GCC unroll 32")

#define TILE_BEGIN(MR, NV)                                                                                             \
    vf acc[MR][NV];                                                                                                    \
    UNROLL for (int m = 0; m < MR; m++) UNROLL for (int v = 0; v < NV; v++)                                            \
        acc[m][v] = g->accumulate ? load(c + m * c_row + v * CNX_VL) : (vf){0};                                        \
    UNROLL for (int m = 0; m < MR; m++) UNROLL for (int v = 0; v < NV; v++)                                            \
        __builtin_prefetch(c + m * c_row + v * CNX_VL, 1);                                                             \
    if (add)                                                                                                           \
        UNROLL for (int m = 0; m < MR; m++) UNROLL for (int v = 0; v < NV; v++)                                        \
            __builtin_prefetch(add + m * add_row + v * CNX_VL, 0);                                                     \
    const float *b = g->b;

#define TILE_STEP(MR, NV, A)                                                                                           \
    {                                                                                                                  \
        vf bv[NV];                                                                                                     \
        UNROLL for (int v = 0; v < NV; v++) bv[v] = load(b + v * CNX_VL);                                              \
        b += NV * CNX_VL;                                                                                              \
        UNROLL for (int m = 0; m < MR; m++)                                                                            \
        {                                                                                                              \
            vf x = splat(A);                                                                                           \
            UNROLL for (int v = 0; v < NV; v++) acc[m][v] += x * bv[v];                                                \
        }                                                                                                              \
    }

#define TILE_END(MR, NV)                                                                                               \
    if (g->bias)                                                                                                       \
        UNROLL for (int v = 0; v < NV; v++)                                                                            \
        {                                                                                                              \
            vf x = load(g->bias + v * CNX_VL);                                                                         \
            UNROLL for (int m = 0; m < MR; m++) acc[m][v] += x;                                                        \
        }                                                                                                              \
    if (add)                                                                                                           \
        UNROLL for (int m = 0; m < MR; m++) UNROLL for (int v = 0; v < NV; v++)                                        \
            acc[m][v] += load(add + m * add_row + v * CNX_VL);                                                         \
    const vf low = splat(g->low), high = splat(g->high);                                                               \
    UNROLL for (int m = 0; m < MR; m++) UNROLL for (int v = 0; v < NV; v++)                                            \
        store(c + m * c_row + v * CNX_VL, min_v(max_v(acc[m][v], low), high));

#define ROWS_TILE(MR, NV)                                                                                              \
    static void rows_##MR##x##NV(const cnx_gemm *g, const float *a, float *c, int64_t c_row, const float *add,          \
                                 int64_t add_row)                                                                      \
    {                                                                                                                  \
        TILE_BEGIN(MR, NV)                                                                                             \
        const int64_t a_row = g->a_row;                                                                                \
        for (int64_t s = 0; s < g->n_seg; s++) {                                                                       \
            const float *p[(MR + 2) / 3];                                                                              \
            UNROLL for (int i = 0; i < (MR + 2) / 3; i++) p[i] = a + g->a_seg[s] + 3 * i * a_row;                      \
            const float *next = a + g->a_seg[s] + MR * a_row;                                                          \
            for (int64_t k = g->seg_len; k > 0; k--) {                                                                 \
                __builtin_prefetch(next, 0, 2);                                                                        \
                next += MR;                                                                                            \
                TILE_STEP(MR, NV, p[m / 3][m % 3 * a_row])                                                             \
                UNROLL for (int i = 0; i < (MR + 2) / 3; i++) p[i]++;                                                  \
            }                                                                                                          \
        }                                                                                                              \
        TILE_END(MR, NV)                                                                                               \
    }

#define OUTER_TILE(MR, NV)                                                                                             \
    static void outer_##MR##x##NV(const cnx_gemm *g, const float *a, float *c, int64_t c_row, const float *add,         \
                                  int64_t add_row)                                                                     \
    {                                                                                                                  \
        TILE_BEGIN(MR, NV)                                                                                             \
        for (int64_t s = 0; s < g->n_seg; s++) {                                                                       \
            const float *p = a + g->a_seg[s];                                                                          \
            const int64_t ahead = g->seg_len * g->a_k;                                                                 \
            for (int64_t k = g->seg_len; k > 0; k--, p += g->a_k) {                                                    \
                __builtin_prefetch(p + ahead, 0, 2);                                                                   \
                TILE_STEP(MR, NV, p[m])                                                                                \
            }                                                                                                          \
        }                                                                                                              \
        TILE_END(MR, NV)                                                                                               \
    }

TILES(ROWS_TILE)
TILES(OUTER_TILE)

#define ROWS_ENTRY(MR, NV) [NV - 1][MR] = rows_##MR##x##NV,
#define OUTER_ENTRY(MR, NV) [NV - 1][MR] = outer_##MR##x##NV,
static const tile_fn rows_tiles[CNX_MAX_NV][MAX_TILE_ROWS + 1] = {TILES(ROWS_ENTRY)};
static const tile_fn outer_tiles[CNX_MAX_NV][MAX_TILE_ROWS + 1] = {TILES(OUTER_ENTRY)};
static const int32_t full_tile_rows[CNX_MAX_NV] = CNX_TILE_ROWS;

/* cols floats of each row, between C and a copy of whole panels */
CNX_INLINE void copy_rows(float *to, int64_t to_row, const float *from, int64_t from_row, int64_t rows, int64_t cols)
{
    for (int64_t m = 0; m < rows; m++)
        for (int64_t c = 0; c < cols; c += CNX_VL)
            store_row(to + m * to_row + c, load_row(from + m * from_row + c, cols - c), cols - c);
}

/* The panel is wider than C: compute on copies of the tile's rows of C and `add`. Vector by vector, masked at the end: with
 * memcpy, the first layer of LeNet-5 (6 of 16 channels) spent more time here than in the tile. */
static __attribute__((noinline)) void edge_tile(tile_fn tile, const cnx_gemm *g, int64_t rows, const float *a, float *c,
                                                const float *add)
{
    float c_copy[MAX_TILE_ROWS * CNX_VL * 2], add_copy[MAX_TILE_ROWS * CNX_VL * 2];
    const int64_t width = g->nv * CNX_VL;
    if (g->accumulate) copy_rows(c_copy, width, c, g->c_row, rows, g->cols);
    if (add) copy_rows(add_copy, width, add, g->add_row, rows, g->cols);
    tile(g, a, c_copy, width, add ? add_copy : NULL, width);
    copy_rows(c, g->c_row, c_copy, width, rows, g->cols);
}

CNX_INLINE void walk_strip(const cnx_gemm *g, const tile_fn *tiles, int64_t a_row)
{
    const int64_t n_tiles = (g->rows + full_tile_rows[g->nv - 1] - 1) / full_tile_rows[g->nv - 1];
    const int full_width = g->cols == g->nv * CNX_VL;
    int64_t m = 0;
    for (int64_t i = 0; i < n_tiles; i++) {
        const int64_t rows = (g->rows - m + n_tiles - i - 1) / (n_tiles - i);
        const float *a = g->a + m * a_row;
        float *c = g->c + m * g->c_row;
        const float *add = g->add ? g->add + m * g->add_row : NULL;
        if (full_width)
            tiles[rows](g, a, c, g->c_row, add, g->add_row);
        else
            edge_tile(tiles[rows], g, rows, a, c, add);
        m += rows;
    }
}

static void gemm_rows(const cnx_gemm *g) { walk_strip(g, rows_tiles[g->nv - 1], g->a_row); }
static void gemm_outer(const cnx_gemm *g) { walk_strip(g, outer_tiles[g->nv - 1], 1); }
