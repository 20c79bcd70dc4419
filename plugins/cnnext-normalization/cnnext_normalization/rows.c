/* One source for all levels: plain loops over contiguous channels, which the compiler vectorizes, and vectors where sums or
 * constants have to stay in registers. */
#include <math.h>
#include "rows.h"

#define INDEPENDENT _Pragma("GCC ivdep")

typedef float vf __attribute__((vector_size(CNX_VL * 4)));
typedef float vf_mem __attribute__((vector_size(CNX_VL * 4), aligned(4), may_alias));

static inline vf load(const float *p) { return *(const vf_mem *)p; }
static inline void store(float *p, vf v) { *(vf_mem *)p = v; }

static inline double lanes(vf v)
{
    double sum = 0;
    for (int i = 0; i < CNX_VL; i++) sum += v[i];
    return sum;
}

#define INLINE static inline __attribute__((always_inline))

/* Sums over rows take four rows at a time: what belongs to a channel is then read, and its sums written, once for four vectors
 * (moments 2.4 times as fast as row by row, sums of gradients 1.5 times). Rows that come from memory have to be fetched ahead
 * in the order of their addresses, which the four do not have: without that they arrive at half the rate. For the same
 * reason what writes rows goes row by row. */
enum { ROWS = 4 };
#define EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < k; r++)
/* C has no `mask ? a : b` of vectors, but GCC's vectorizer finds it. */
#define LANES _Pragma("GCC ivdep") _Pragma("GCC unroll 1") for (int l = 0; l < CNX_VL; l++)

/* f(k, row) for the rows, k of them each time */
#define BY_ROWS(rows, f)                                                                                               \
    int64_t row = 0;                                                                                                   \
    for (; row + ROWS <= (rows); row += ROWS) f(ROWS, row);                                                            \
    for (; row < (rows); row++) f(1, row);

/* The line of the rows two steps ahead that is as far from their beginning as this one is read after the first. */
INLINE void fetch(norm_run x, int64_t c, int r)
{
    __builtin_prefetch(x.at + 2 * ROWS * x.step + c * ROWS + r * CNX_VL);
}

static norm_run behind(norm_run x, int64_t rows) { return (norm_run){x.at ? x.at + rows * x.step : x.at, x.step}; }

INLINE void deviations_of(const int k, norm_run x, const float *center, float *sum, float *squares, int64_t n)
{
    int64_t c = 0;
    for (; c + CNX_VL <= n; c += CNX_VL) {
        const vf middle = load(center + c);
        vf s = load(sum + c), q = load(squares + c);
        EACH_ROW {
            const vf d = load(x.at + r * x.step + c) - middle;
            s += d;
            q += d * d;
        }
        store(sum + c, s);
        store(squares + c, q);
    }
    for (; c < n; c++) EACH_ROW {
        const float d = x.at[r * x.step + c] - center[c];
        sum[c] += d;
        squares[c] += d * d;
    }
}

static void deviations_of_rows(norm_run x, int64_t rows, const float *center, float *sum, float *squares, int64_t n)
{
#define DEVIATIONS(k, row) deviations_of(k, behind(x, row), center, sum, squares, n)
    BY_ROWS(rows, DEVIATIONS)
}

static inline float clip(float v, float low, float high)    /* a NaN stays one */
{
    v = v < low ? low : v;
    return v > high ? high : v;
}

static void normalize_rows(const norm_channels *p, norm_run x, norm_run add, norm_run y, int64_t rows)
{
    const float *center = p->center, *scale = p->scale, *shift = p->shift;
    const float low = p->low, high = p->high;
    const int64_t n = p->n;
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x.at + r * x.step, *other = add.at + r * add.step;
        float *to = y.at + r * y.step;
        if (!add.at) {
            INDEPENDENT
            for (int64_t c = 0; c < n; c++) to[c] = clip((from[c] - center[c]) * scale[c] + shift[c], low, high);
            continue;
        }
        INDEPENDENT
        for (int64_t c = 0; c < n; c++) to[c] = clip((from[c] - center[c]) * scale[c] + shift[c] + other[c], low, high);
    }
}

/* dy where the forward pass did not clip, computed again from x instead of read: a pass over memory less. */
INLINE float passed(float dy, float d, float scale, float shift, float low, float high)
{
    const float y = d * scale + shift;
    return y > low && y < high ? dy : 0;
}

INLINE vf passed_vector(vf dy, vf d, vf scale, vf shift, vf low, vf high)
{
    const vf y = d * scale + shift;
    vf r;
    LANES r[l] = (y[l] > low[l]) & (y[l] < high[l]) ? dy[l] : 0;
    return r;
}

INLINE void diff_sums_of(const int k, const norm_channels *p, norm_run x, norm_run dy, float *sum, float *dots)
{
    const vf low = p->low - (vf){0}, high = p->high - (vf){0};
    const int64_t n = p->n;
    int64_t c = 0;
    for (; c + CNX_VL <= n; c += CNX_VL) {
        const vf center = load(p->center + c), scale = load(p->scale + c), shift = load(p->shift + c);
        vf s = load(sum + c), q = load(dots + c);
        EACH_ROW {
            fetch(x, c, r);
            fetch(dy, c, r);
            const vf d = load(x.at + r * x.step + c) - center;
            const vf g = passed_vector(load(dy.at + r * dy.step + c), d, scale, shift, low, high);
            s += g;
            q += g * d;
        }
        store(sum + c, s);
        store(dots + c, q);
    }
    for (; c < n; c++) EACH_ROW {
        const float d = x.at[r * x.step + c] - p->center[c];
        const float g = passed(dy.at[r * dy.step + c], d, p->scale[c], p->shift[c], p->low, p->high);
        sum[c] += g;
        dots[c] += g * d;
    }
}

static void diff_sums_of_rows(const norm_channels *p, norm_run x, norm_run dy, int64_t rows, float *sum, float *dots)
{
#define DIFF_SUMS(k, row) diff_sums_of(k, p, behind(x, row), behind(dy, row), sum, dots)
    BY_ROWS(rows, DIFF_SUMS)
}

static void diff_rows(const norm_channels *p, const float *slope, const float *level, norm_run x, norm_run dy, norm_run dx,
                 int64_t rows)
{
    const float *center = p->center, *scale = p->scale, *shift = p->shift;
    const float low = p->low, high = p->high;
    const int64_t n = p->n;
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x.at + r * x.step, *grad = dy.at + r * dy.step;
        float *to = dx.at + r * dx.step;
        INDEPENDENT
        for (int64_t c = 0; c < n; c++) {
            const float d = from[c] - center[c], g = passed(grad[c], d, scale[c], shift[c], low, high);
            to[c] = scale[c] * g - slope[c] * d - level[c];
        }
    }
}

/* Rows of few channels fill a vector badly. Where they lie without gaps, k of them are one row of k times as many
 * channels, whose parameters repeat; sums over it are folded afterwards. Where there are gaps, sums take the rows in the same
 * order, every k-th row for itself: the bits of a result do not depend on where its sources lie. */
enum { WIDE = 64 };

static int64_t repeats(int64_t n, int64_t rows, int dense)
{
    return dense && 2 * n <= WIDE && rows >= WIDE / n ? WIDE / n : 1;
}

static const float *repeated(const float *v, int64_t n, int64_t k, float *wide)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t c = 0; c < n; c++) wide[i * n + c] = v[c];
    return wide;
}

static void fold(const float *wide, int64_t n, int64_t k, float *sum)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t c = 0; c < n; c++) sum[c] += wide[i * n + c];
}

static norm_channels widened(const norm_channels *p, int64_t k, float wide[3][WIDE])
{
    norm_channels q = *p;
    q.center = repeated(p->center, p->n, k, wide[0]);
    q.scale = repeated(p->scale, p->n, k, wide[1]);
    q.shift = repeated(p->shift, p->n, k, wide[2]);
    q.n = k * p->n;
    return q;
}

static norm_run joined(norm_run x, int64_t k) { return (norm_run){x.at, k * x.step}; }
static norm_run every(norm_run x, int64_t k, int64_t first) { return (norm_run){x.at + first * x.step, k * x.step}; }

static void deviations(norm_run x, int64_t rows, const float *center, float *sum, float *squares, int64_t n)
{
    const int64_t k = repeats(n, rows, 1), whole = k > 1 ? rows / k * k : 0;
    if (k > 1) {
        float wide[WIDE], sums[WIDE] = {0}, all_squares[WIDE] = {0};
        if (x.step == n)
            deviations_of_rows(joined(x, k), rows / k, repeated(center, n, k, wide), sums, all_squares, k * n);
        else
            for (int64_t i = 0; i < k; i++)
                deviations_of_rows(every(x, k, i), rows / k, center, sums + i * n, all_squares + i * n, n);
        fold(sums, n, k, sum);
        fold(all_squares, n, k, squares);
    }
    deviations_of_rows(behind(x, whole), rows - whole, center, sum, squares, n);
}

static void normalize(const norm_channels *p, norm_run x, norm_run add, norm_run y, int64_t rows)
{
    const int64_t n = p->n, k = repeats(n, rows, x.step == n && y.step == n && (!add.at || add.step == n));
    const int64_t whole = k > 1 ? rows / k * k : 0;
    if (k > 1) {
        float wide[3][WIDE];
        const norm_channels q = widened(p, k, wide);
        normalize_rows(&q, joined(x, k), joined(add, k), joined(y, k), rows / k);
    }
    normalize_rows(p, behind(x, whole), behind(add, whole), behind(y, whole), rows - whole);
}

static void diff_sums(const norm_channels *p, norm_run x, norm_run dy, int64_t rows, float *sum, float *dots)
{
    const int64_t n = p->n, k = repeats(n, rows, 1), whole = k > 1 ? rows / k * k : 0;
    if (k > 1) {
        float wide[3][WIDE], sums[WIDE] = {0}, all_dots[WIDE] = {0};
        const norm_channels q = widened(p, k, wide);
        if (x.step == n && dy.step == n)
            diff_sums_of_rows(&q, joined(x, k), joined(dy, k), rows / k, sums, all_dots);
        else
            for (int64_t i = 0; i < k; i++)
                diff_sums_of_rows(p, every(x, k, i), every(dy, k, i), rows / k, sums + i * n, all_dots + i * n);
        fold(sums, n, k, sum);
        fold(all_dots, n, k, dots);
    }
    diff_sums_of_rows(p, behind(x, whole), behind(dy, whole), rows - whole, sum, dots);
}

static void diff(const norm_channels *p, const float *slope, const float *level, norm_run x, norm_run dy, norm_run dx,
                 int64_t rows)
{
    const int64_t n = p->n, k = repeats(n, rows, x.step == n && dy.step == n && dx.step == n);
    const int64_t whole = k > 1 ? rows / k * k : 0;
    if (k > 1) {
        float wide[3][WIDE], slopes[WIDE], levels[WIDE];
        const norm_channels q = widened(p, k, wide);
        diff_rows(&q, repeated(slope, n, k, slopes), repeated(level, n, k, levels), joined(x, k), joined(dy, k),
                  joined(dx, k), rows / k);
    }
    diff_rows(p, slope, level, behind(x, whole), behind(dy, whole), behind(dx, whole), rows - whole);
}

/* Sums along one row: of x, and of x - center and its square. */
static double row_sum(const float *x, int64_t n)
{
    vf even = {0}, odd = {0};
    int64_t i = 0;
    for (; i + 2 * CNX_VL <= n; i += 2 * CNX_VL) {
        even += load(x + i);
        odd += load(x + i + CNX_VL);
    }
    double sum = lanes(even) + lanes(odd);
    for (; i < n; i++) sum += x[i];
    return sum;
}

static void row_deviations(const float *x, int64_t n, float center, double *sum, double *squares)
{
    vf s = {0}, q = {0};
    int64_t i = 0;
    for (; i + CNX_VL <= n; i += CNX_VL) {
        const vf d = load(x + i) - center;
        s += d;
        q += d * d;
    }
    *sum = lanes(s);
    *squares = lanes(q);
    for (; i < n; i++) {
        const float d = x[i] - center;
        *sum += d;
        *squares += d * d;
    }
}

/* Mean (as a float and what that leaves) and 1 / standard deviation of a row. The variance is a sum of squares around a
 * float next to the mean, with the small rest taken off: no cancellation however large the mean is. */
typedef struct moments {
    float center, rest, inverse;
} moments;

static moments row_moments(const norm_row *p, const float *x)
{
    moments m = {0, 0, 0};
    double sum, squares;
    if (p->centered) m.center = (float)(row_sum(x, p->n) / (double)p->n);
    row_deviations(x, p->n, m.center, &sum, &squares);
    const double rest = p->centered ? sum / (double)p->n : 0;
    m.rest = (float)rest;
    m.inverse = (float)(1 / sqrt(fmax(squares / (double)p->n - rest * rest, 0) + p->epsilon));
    return m;
}

static void row(const norm_row *p, const float *x, const float *add, float *y)
{
    const moments m = row_moments(p, x);
    const float *gamma = p->gamma, *beta = p->beta;
    INDEPENDENT
    for (int64_t c = 0; c < p->n; c++) {
        const float v = (x[c] - m.center - m.rest) * m.inverse * gamma[c] + beta[c] + (add ? add[c] : 0);
        y[c] = clip(v, p->low, p->high);
    }
}

static void row_dots(const norm_row *p, const float *x, const float *dy, moments m, double *sum, double *dots)
{
    vf s = {0}, q = {0};
    int64_t i = 0;
    for (; i + CNX_VL <= p->n; i += CNX_VL) {
        const vf g = load(dy + i) * load(p->gamma + i);
        s += g;
        q += g * ((load(x + i) - m.center - m.rest) * m.inverse);
    }
    *sum = lanes(s);
    *dots = lanes(q);
    for (; i < p->n; i++) {
        const float g = dy[i] * p->gamma[i];
        *sum += g;
        *dots += g * ((x[i] - m.center - m.rest) * m.inverse);
    }
}

static void row_backward(const norm_row *p, const float *x, const float *dy, float *dx, float *diff_gamma,
                         float *diff_beta)
{
    const moments m = row_moments(p, x);
    const float *gamma = p->gamma;
    double sum, dots;
    row_dots(p, x, dy, m, &sum, &dots);
    const float mean = p->centered ? (float)(sum / (double)p->n) : 0, slope = (float)(dots / (double)p->n);
    INDEPENDENT
    for (int64_t c = 0; c < p->n; c++) {
        const float g = dy[c], z = (x[c] - m.center - m.rest) * m.inverse;
        diff_gamma[c] += g * z;
        diff_beta[c] += g;
        dx[c] = m.inverse * (gamma[c] * g - mean - z * slope);
    }
}

/* base[c] = bias + alpha * sum of squares over the window, factor[c] = base^-beta */
static void response_factors(const norm_response *p, const float *x, float *base, float *factor)
{
    const int64_t n = p->n;
    for (int64_t c = 0; c < n; c++) base[c] = 0;
    for (int64_t o = -p->before; o <= p->after; o++) {
        const int64_t first = o < 0 ? -o : 0, last = o > 0 ? n - o : n;
        INDEPENDENT
        for (int64_t c = first; c < last; c++) base[c] += x[c + o] * x[c + o];
    }
    INDEPENDENT
    for (int64_t c = 0; c < n; c++) base[c] = p->bias + p->alpha * base[c];
    if (p->beta == 0.75f) {     /* the exponent of the paper, by roots, which are vector instructions */
        INDEPENDENT
        for (int64_t c = 0; c < n; c++) factor[c] = 1 / (sqrtf(base[c]) * sqrtf(sqrtf(base[c])));
        return;
    }
    for (int64_t c = 0; c < n; c++) factor[c] = powf(base[c], -p->beta);
}

static void response(const norm_response *p, const float *x, float *y, float *scratch)
{
    float *factor = scratch + p->n;
    response_factors(p, x, scratch, factor);
    INDEPENDENT
    for (int64_t c = 0; c < p->n; c++) y[c] = x[c] * factor[c];
}

/* dx[c] = dy[c] factor[c] - 2 alpha beta x[c] * sum over the channels j whose window holds c of dy x factor / base at j */
static void response_backward(const norm_response *p, const float *x, const float *dy, float *dx, float *scratch)
{
    const int64_t n = p->n;
    const float weight = 2 * p->alpha * p->beta;
    float *base = scratch, *factor = scratch + n;
    response_factors(p, x, base, factor);
    INDEPENDENT
    for (int64_t c = 0; c < n; c++) base[c] = dy[c] * x[c] * factor[c] / base[c];
    INDEPENDENT
    for (int64_t c = 0; c < n; c++) dx[c] = dy[c] * factor[c];
    for (int64_t o = -p->after; o <= p->before; o++) {
        const int64_t first = o < 0 ? -o : 0, last = o > 0 ? n - o : n;
        INDEPENDENT
        for (int64_t c = first; c < last; c++) dx[c] -= weight * x[c] * base[c + o];
    }
}

const norm_rows CNX_PER_LEVEL(norm_rows) = {
    .deviations = deviations,
    .normalize = normalize,
    .diff_sums = diff_sums,
    .diff = diff,
    .row = row,
    .row_backward = row_backward,
    .response = response,
    .response_backward = response_backward,
};
