/* Rows: functions of one or two variables, sums over rows, softmax, optimizers.
 *
 * Design
 *   Tables:    one line per function, the formula and its derivative side by side. A macro makes one loop of each line;
 *              `op` is looked at once per call.
 *   Loops:     one vector per turn and one copy of the formula (load_row, store_row). The turns are independent, so the
 *              processor overlaps them by itself; cheap functions run at the speed of memory.
 *   Rows:      short ones (a pixel's channels) come many to a call, which would cost more than they do; where they touch, as
 *              one long row.
 *   In place:  a turn loads all it needs of its elements before it stores, so a result may be the row of a source.
 *   Reductions over rows keep up to 8 vectors of channels in registers and add row by row, first row first, on top of
 *              what `acc` holds: a channel's order is that of the rows alone, however they are cut into calls.
 *   Reductions along a row keep one vector of partial sums (lane i sums the elements i, i + VL, ...), folded by halves:
 *              the order depends on n alone.
 */

#define SELU_SCALE 1.05070099f
#define SELU_ALPHA 1.67326324f

/* A factor for a gate that is 0 at -infinity: the product is then 0, the limit, instead of NaN. */
CNX_INLINE vf finite_below(vf x) { return max_v(x, splat(-FLOAT_MAX)); }
CNX_INLINE vf clamp(vf x, float limit) { return min_v(max_v(x, splat(-limit)), splat(limit)); }
CNX_INLINE vf one_if(vi mask) { return select(mask, splat(1), splat(0)); }

CNX_INLINE vf elu(vf x, vf scale) { return select(x > 0, x, scale * expm1_v(x)); }

CNX_INLINE vf gelu(vf x)
{
    vf density;
    return finite_below(x) * normal_cdf(x, &density);
}
CNX_INLINE vf gelu_diff(vf x)
{
    vf density;
    const vf cdf = normal_cdf(x, &density);
    return cdf + clamp(x, 16) * (density * 0.398942280f); /* 1 / sqrt(2 pi) */
}

/* Hendrycks & Gimpel 2016: x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and (1 + tanh(u)) / 2 is
 * sigmoid(2 u). */
#define GELU_TANH_SLOPE 1.59576912f
#define GELU_TANH_CUBE 0.044715f
CNX_INLINE vf gelu_tanh(vf x)
{
    return finite_below(x) * sigmoid_v(GELU_TANH_SLOPE * (x * (1 + GELU_TANH_CUBE * (x * x))));
}
CNX_INLINE vf gelu_tanh_diff(vf x)
{
    x = clamp(x, 12); /* constant beyond */
    const vf square = x * x;
    const vf s = sigmoid_v(GELU_TANH_SLOPE * (x * (1 + GELU_TANH_CUBE * square)));
    return s + x * s * (1 - s) * (GELU_TANH_SLOPE * (1 + 3 * GELU_TANH_CUBE * square));
}

CNX_INLINE vf silu_diff(vf x)
{
    x = clamp(x, 128);
    const vf s = sigmoid_v(x);
    return s + x * s * (1 - s);
}

CNX_INLINE vf hard_swish_gate(vf x) { return min_v(max_v(x * (1 / 6.0f) + 0.5f, splat(0)), splat(1)); }
CNX_INLINE vf hard_swish_diff(vf x) { return select((x > -3) & (x < 3), x * (1 / 3.0f) + 0.5f, one_if(x > 0)); }

/* tanh(softplus(x)) = p / (p + 2 q). With w = exp(x): p = w^2 + 2 w, q = 1; for x > 0 both are divided by w^2. */
CNX_INLINE vf mish_gate(vf x, vf z, vf *q)
{
    *q = select(x > 0, z * z, splat(1));
    const vf p = select(x > 0, 1 + 2 * z, z * z + 2 * z);
    return p / (p + 2 * *q);
}
CNX_INLINE vf mish(vf x)
{
    vf q;
    return finite_below(x) * mish_gate(x, exp_v(-abs_v(x)), &q);
}
/* g + x (1 - g^2) sigmoid(x), where p + q = (1 + z)^2 makes (1 - g^2) = 4 q (1 + z)^2 / (p + 2 q)^2. */
CNX_INLINE vf mish_diff(vf x)
{
    x = clamp(x, 128);
    vf q;
    const vf z = exp_v(-abs_v(x)), gate = mish_gate(x, z, &q);
    const vf divisor = (1 + z) * (1 + z) + q;
    return gate + x * (4 * q) * select(x > 0, splat(1), z) * (1 + z) / (divisor * divisor);
}

CNX_INLINE vf softplus(vf x) { return max_v(x, splat(0)) + log1p_v(exp_v(-abs_v(x))); }

CNX_INLINE vf softsign(vf x)
{
    x = clamp(x, 0x1p30f); /* 1 there already */
    return x / (1 + abs_v(x));
}

/* 0, but NaN where x is. */
CNX_INLINE vf zero_or_nan(vf x) { return select(x == x, splat(0), x); }
CNX_INLINE vf sign(vf x) { return select(x > 0, splat(1), select(x < 0, splat(-1), zero_or_nan(x))); }

/* x sigmoid(b x), 0 where the gate is: of an infinite x too */
CNX_INLINE vf swish(vf x, vf b)
{
    const vf gate = sigmoid_v(b * clamp(x, FLOAT_MAX));
    return select(gate == 0, splat(0), x * gate);
}
CNX_INLINE vf swish_diff(vf x, vf b)
{
    const vf s = sigmoid_v(b * clamp(x, FLOAT_MAX));
    return s + clamp(b * x, 128) * s * (1 - s);
}

CNX_INLINE vf shrink(vf x, vf limit, vf bias)
{
    return select(x < -limit, x + bias, select(x > limit, x - bias, zero_or_nan(x)));
}

/* NAME, constants read from p, f(x; a, b), f'(s; a, b) where s is the saved x or y. */
#define UNARY_FORMULAS(F)                                                                                              \
    F(IDENTITY, 0, x, splat(1))                                                                                        \
    F(CLIP, 2, min_v(max_v(x, a), b), one_if((s > a) & (s < b)))                                                       \
    F(LEAKY_RELU, 1, select(x > 0, x, a * x), select(s > 0, splat(1), a))                                              \
    F(ELU, 1, elu(x, a), select(s > 0, splat(1), s + a))                                                               \
    F(SELU, 0, SELU_SCALE * elu(x, splat(SELU_ALPHA)),                                                                 \
      select(s > 0, splat(SELU_SCALE), s + SELU_SCALE * SELU_ALPHA))                                                   \
    F(GELU, 0, gelu(x), gelu_diff(s))                                                                                  \
    F(GELU_TANH, 0, gelu_tanh(x), gelu_tanh_diff(s))                                                                   \
    F(SIGMOID, 0, sigmoid_v(x), s * (1 - s))                                                                           \
    F(HARD_SIGMOID, 2, min_v(max_v(a * x + b, splat(0)), splat(1)), select((s > 0) & (s < 1), a, splat(0)))            \
    F(TANH, 0, tanh_v(x), 1 - s * s)                                                                                   \
    F(SILU, 0, silu_v(x), silu_diff(s))                                                                                \
    F(HARD_SWISH, 0, finite_below(x) * hard_swish_gate(x), hard_swish_diff(s))                                         \
    F(MISH, 0, mish(x), mish_diff(s))                                                                                  \
    F(SOFTPLUS, 0, softplus(x), -expm1_v(-s))                                                                          \
    F(SOFTSIGN, 0, softsign(x), (1 - abs_v(s)) * (1 - abs_v(s)))                                                       \
    F(AFFINE, 2, a * x + b, a)                                                                                         \
    F(EXP, 0, exp_full_v(x), s)                                                                                        \
    F(LOG, 0, log_v(x), 1 / s)                                                                                         \
    F(SQRT, 0, sqrt_v(x), 0.5f / s)                                                                                    \
    F(RSQRT, 0, 1 / sqrt_v(x), -0.5f * s * (s * s))                                                                    \
    F(ABS, 0, abs_v(x), sign(s))                                                                                       \
    F(RECIPROCAL, 0, 1 / x, -s * s)                                                                                    \
    F(SQUARE, 0, x *x, 2 * s)                                                                                          \
    F(CUBE, 0, x *x *x, 3 * s * s)                                                                                     \
    F(POWER, 1, power_v(x, p[0]), a * (p[0] == 1 ? splat(1) : power_v(s, p[0] - 1)))                                   \
    F(FLOOR, 0, floor_v(x), splat(0))                                                                                  \
    F(CEIL, 0, ceil_v(x), splat(0))                                                                                    \
    F(ROUND, 0, round_v(x), splat(0))                                                                                  \
    F(SIGN, 0, sign(x), splat(0))                                                                                      \
    F(ERF, 0, erf_v(x), 1.12837917f * exp_v(-(s * s)))                                                                 \
    F(LEAKY_RELU_ANY, 1, select(x > 0, x, a * x), select(s > 0, splat(1), a))                                          \
    F(ELU_ANY, 1, elu(x, a), select(s > 0, splat(1), a * exp_v(s)))                                                    \
    F(CELU, 1, select(x > 0, x, a * expm1_v(x / a)), select(s > 0, splat(1), s / a + 1))                               \
    F(THRESHOLDED_RELU, 1, select(x > a, x, zero_or_nan(x)), one_if(s > a))                                            \
    F(SWISH, 1, swish(x, a), swish_diff(s, a))                                                                         \
    F(SHRINK, 2, shrink(x, a, b), one_if((s < -a) | (s > a)))                                                          \
    F(SCALED_HARD_SWISH, 2, a * (finite_below(x) * hard_swish_gate(x)) + b, a * hard_swish_diff(s))

#define UNARY_CONSTANTS(COUNT)                                                                                         \
    const vf a = splat(COUNT > 0 ? p[0] : 0), b = splat(COUNT > 1 ? p[1] : 0);                                         \
    (void)a, (void)b;

static void unary_rows(int32_t op, const float *src, int64_t src_row, float *y, int64_t y_row, int64_t rows, int64_t n,
                       const float *p)
{
    if (src_row == n && y_row == n) { /* one row, with one incomplete vector */
        n *= rows;
        rows = 1;
    }
    switch (op) {
#define UNARY_LOOP(NAME, COUNT, VALUE, DERIVATIVE)                                                                     \
    case CNX_##NAME: {                                                                                                 \
        UNARY_CONSTANTS(COUNT)                                                                                         \
        for (int64_t row = 0; row < rows; row++, src += src_row, y += y_row)                                           \
            for (int64_t i = 0; i < n; i += CNX_VL) {                                                                  \
                const vf x = load_row(src + i, n - i);                                                                 \
                store_row(y + i, VALUE, n - i);                                                                        \
            }                                                                                                          \
        break;                                                                                                         \
    }
        UNARY_FORMULAS(UNARY_LOOP)
    }
}

static void unary(int32_t op, const float *src, float *y, int64_t n, const float *p)
{
    unary_rows(op, src, 0, y, 0, 1, n, p);
}

static void unary_backward(int32_t op, const float *saved, const float *dy, float *dx, int64_t n, const float *p)
{
    switch (op) {
#define UNARY_BACKWARD_LOOP(NAME, COUNT, VALUE, DERIVATIVE)                                                            \
    case CNX_##NAME: {                                                                                                 \
        UNARY_CONSTANTS(COUNT)                                                                                         \
        for (int64_t i = 0; i < n; i += CNX_VL) {                                                                      \
            const vf s = load_row(saved + i, n - i);                                                                   \
            (void)s;                                                                                                   \
            store_row(dx + i, load_row(dy + i, n - i) * (DERIVATIVE), n - i);                                          \
        }                                                                                                              \
        break;                                                                                                         \
    }
        UNARY_FORMULAS(UNARY_BACKWARD_LOOP)
    }
}

#define BINARY_FORMULAS(F)                                                                                             \
    F(ADD, x + y)                                                                                                      \
    F(SUBTRACT, x - y)                                                                                                 \
    F(MULTIPLY, x *y)                                                                                                  \
    F(DIVIDE, x / y)                                                                                                   \
    F(MAXIMUM, maximum_v(x, y))                                                                                        \
    F(MINIMUM, minimum_v(x, y))                                                                                        \
    F(GREATER, select(x == y, splat(0.5f), one_if(x > y)))                                                             \
    F(EQUAL, one_if(x == y))

static void binary_rows(int32_t op, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row,
                        int64_t b_step, float *dst, int64_t dst_row, int64_t rows, int64_t n)
{
    if (n <= 0) return;
    if (a_row == n * a_step && b_row == n * b_step && dst_row == n) { /* one row, with one incomplete vector */
        n *= rows;
        rows = 1;
    }
    switch (op) {
#define BINARY_LOOP(NAME, VALUE)                                                                                       \
    case CNX_##NAME:                                                                                                   \
        for (int64_t row = 0; row < rows; row++, a += a_row, b += b_row, dst += dst_row) {                             \
            const vf a_repeated = splat(*a), b_repeated = splat(*b);                                                   \
            for (int64_t i = 0; i < n; i += CNX_VL) {                                                                  \
                const vf x = a_step ? load_row(a + i, n - i) : a_repeated;                                             \
                const vf y = b_step ? load_row(b + i, n - i) : b_repeated;                                             \
                store_row(dst + i, VALUE, n - i);                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        break;
        BINARY_FORMULAS(BINARY_LOOP)
    }
}

static void binary(int32_t op, const float *a, int64_t a_step, const float *b, int64_t b_step, float *dst, int64_t n)
{
    binary_rows(op, a, 0, a_step, b, 0, b_step, dst, 0, 1, n);
}

static void prelu_rows(const float *x, int64_t x_row, const float *slope, int64_t slope_row, float *y, int64_t y_row,
                       int64_t rows, int64_t n)
{
    for (int64_t row = 0; row < rows; row++, x += x_row, slope += slope_row, y += y_row)
        for (int64_t i = 0; i < n; i += CNX_VL) {
            const vf v = load_row(x + i, n - i);
            store_row(y + i, select(v > 0, v, load_row(slope + i, n - i) * v), n - i);
        }
}

static void prelu(const float *x, const float *slope, float *y, int64_t n) { prelu_rows(x, 0, slope, 0, y, 0, 1, n); }

static void prelu_backward(const float *x, const float *slope, const float *dy, float *dx, float *dslope, int64_t n)
{
    for (int64_t i = 0; i < n; i += CNX_VL) {
        const int64_t left = n - i;
        const vf v = load_row(x + i, left), d = load_row(dy + i, left);
        const vf sum = load_row(dslope + i, left) + d * min_v(v, splat(0));
        store_row(dx + i, d * select(v > 0, splat(1), load_row(slope + i, left)), left);
        store_row(dslope + i, sum, left);
    }
}

static void axpy(float scale, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += CNX_VL)
        store_row(y + i, load_row(y + i, n - i) + scale * load_row(x + i, n - i), n - i);
}

/* `part` is 0, or the channels of a block of one incomplete vector. */
#define ROWS_BLOCK(NV, TERM)                                                                                           \
    vf sum[NV];                                                                                                        \
    CNX_UNROLL for (int v = 0; v < NV; v++) sum[v] = part ? load_part(acc, part) : load(acc + v * CNX_VL);             \
    for (int64_t row = 0; row < rows; row++)                                                                           \
        CNX_UNROLL for (int v = 0; v < NV; v++) sum[v] += TERM;                                                        \
    CNX_UNROLL for (int v = 0; v < NV; v++)                                                                            \
    {                                                                                                                  \
        if (part)                                                                                                      \
            store_part(acc, sum[v], part);                                                                             \
        else                                                                                                           \
            store(acc + v * CNX_VL, sum[v]);                                                                           \
    }

#define ROW_OF(p, step) (part ? load_part(p + row * step, part) : load(p + row * step + v * CNX_VL))

/* BLOCK(nv, c, part) over the n channels, in blocks of 8, 4, 2, 1 vectors and the rest. */
#define CHANNEL_BLOCKS(BLOCK)                                                                                          \
    int64_t c = 0;                                                                                                     \
    for (; c + 8 * CNX_VL <= n; c += 8 * CNX_VL) BLOCK(8, c, 0);                                                       \
    if (c + 4 * CNX_VL <= n) BLOCK(4, c, 0), c += 4 * CNX_VL;                                                          \
    if (c + 2 * CNX_VL <= n) BLOCK(2, c, 0), c += 2 * CNX_VL;                                                          \
    if (c + CNX_VL <= n) BLOCK(1, c, 0), c += CNX_VL;                                                                  \
    if (c < n) BLOCK(1, c, n - c);

CNX_INLINE void sum_block(const int nv, const float *x, int64_t row_step, int64_t rows, float *acc, int64_t part)
{
    ROWS_BLOCK(nv, ROW_OF(x, row_step))
}

static void sum_rows(const float *x, int64_t row_step, int64_t rows, float *acc, int64_t n)
{
#define SUM_BLOCK(NV, C, PART) sum_block(NV, x + C, row_step, rows, acc + C, PART)
    CHANNEL_BLOCKS(SUM_BLOCK)
}

CNX_INLINE void dot_block(const int nv, const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t rows,
                          float *acc, int64_t part)
{
    ROWS_BLOCK(nv, ROW_OF(a, a_step) * ROW_OF(b, b_step))
}

static void dot_rows(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t rows, float *acc,
                     int64_t n)
{
#define DOT_BLOCK(NV, C, PART) dot_block(NV, a + C, a_step, b + C, b_step, rows, acc + C, PART)
    CHANNEL_BLOCKS(DOT_BLOCK)
}

/* The rest of a row as a vector. Lanes behind its end hold -infinity: neither a maximum nor a sum of exp notices. */
CNX_INLINE vf load_logits(const float *x, int64_t left)
{
    return left >= CNX_VL ? load(x) : select(first_lanes(left), load_part(x, left), splat(-INFINITE));
}

CNX_INLINE vf row_maximum(const float *x, int64_t n)
{
    vf largest = splat(-INFINITE);
    for (int64_t i = 0; i < n; i += CNX_VL) largest = max_v(load_logits(x + i, n - i), largest);
    return splat(max_lanes(largest));
}

/* Relative to the row's maximum, so nothing overflows and the sum is at least 1. A NaN, or nothing but -infinity, makes
 * the whole row NaN. */
static void softmax(const float *x, float *y, int64_t n)
{
    const vf largest = row_maximum(x, n);
    vf sum = splat(0);
    for (int64_t i = 0; i < n; i += CNX_VL) {
        const vf e = exp_v(load_logits(x + i, n - i) - largest);
        sum += e;
        store_row(y + i, e, n - i);
    }
    const vf share = splat(1 / sum_lanes(sum));
    for (int64_t i = 0; i < n; i += CNX_VL) store_row(y + i, load_row(y + i, n - i) * share, n - i);
}

static void log_softmax(const float *x, float *y, int64_t n)
{
    const vf largest = row_maximum(x, n);
    vf sum = splat(0);
    for (int64_t i = 0; i < n; i += CNX_VL) sum += exp_v(load_logits(x + i, n - i) - largest);
    const vf log_total = log_v(splat(sum_lanes(sum)));
    for (int64_t i = 0; i < n; i += CNX_VL) store_row(y + i, load_row(x + i, n - i) - largest - log_total, n - i);
}

/* Rows of at most VL elements: VL rows at once, turned so that each is a lane; the order of a row's sum is that of its elements.
 * Folding lanes row by row took 50 ns a row, whatever its length. */
static void transpose(const float *src, int64_t src_step, float *dst, int64_t dst_step, int64_t rows, int64_t cols);
CNX_INLINE void softmax_narrow(const int log, const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n)
{
    float turned[CNX_VL * CNX_VL] = {0};
    for (int64_t row = 0; row < rows; row += CNX_VL) {
        const int64_t count = rows - row < CNX_VL ? rows - row : CNX_VL;
        transpose(x + row * x_row, x_row, turned, CNX_VL, n, count);
        vf largest = splat(-INFINITE), sum = splat(0);
        for (int64_t i = 0; i < n; i++) largest = max_v(load(turned + i * CNX_VL), largest);
        for (int64_t i = 0; i < n; i++) {
            const vf shifted = load(turned + i * CNX_VL) - largest, e = exp_v(shifted);
            sum += e;
            store(turned + i * CNX_VL, log ? shifted : e);
        }
        const vf last = log ? log_v(sum) : 1 / sum;
        for (int64_t i = 0; i < n; i++) {
            const vf v = load(turned + i * CNX_VL);
            store(turned + i * CNX_VL, log ? v - last : v * last);
        }
        transpose(turned, CNX_VL, y + row * y_row, y_row, count, n);
    }
}

static void softmax_rows(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n)
{
    if (n <= CNX_VL)
        softmax_narrow(0, x, x_row, y, y_row, rows, n);
    else
        for (int64_t row = 0; row < rows; row++) softmax(x + row * x_row, y + row * y_row, n);
}

static void log_softmax_rows(const float *x, int64_t x_row, float *y, int64_t y_row, int64_t rows, int64_t n)
{
    if (n <= CNX_VL)
        softmax_narrow(1, x, x_row, y, y_row, rows, n);
    else
        for (int64_t row = 0; row < rows; row++) log_softmax(x + row * x_row, y + row * y_row, n);
}

static void softmax_backward(const float *y, const float *dy, float *dx, int64_t n)
{
    vf sum = splat(0);
    for (int64_t i = 0; i < n; i += CNX_VL) sum += load_row(y + i, n - i) * load_row(dy + i, n - i);
    const vf mean = splat(sum_lanes(sum));
    for (int64_t i = 0; i < n; i += CNX_VL)
        store_row(dx + i, load_row(y + i, n - i) * (load_row(dy + i, n - i) - mean), n - i);
}

static void log_softmax_backward(const float *y, const float *dy, float *dx, int64_t n)
{
    vf sum = splat(0);
    for (int64_t i = 0; i < n; i += CNX_VL) sum += load_row(dy + i, n - i);
    const vf total = splat(sum_lanes(sum));
    for (int64_t i = 0; i < n; i += CNX_VL)
        store_row(dx + i, load_row(dy + i, n - i) - exp_v(load_row(y + i, n - i)) * total, n - i);
}

static void sgd(float *w, float *velocity, const float *dw, int64_t n, float rate, float momentum, float decay,
                int32_t nesterov)
{
    for (int64_t i = 0; i < n; i += CNX_VL) {
        const int64_t left = n - i;
        const vf weight = load_row(w + i, left), gradient = load_row(dw + i, left) + decay * weight;
        const vf v = momentum * load_row(velocity + i, left) + gradient;
        store_row(velocity + i, v, left);
        store_row(w + i, weight - rate * (nesterov ? gradient + momentum * v : v), left);
    }
}

static void adam(float *w, float *m, float *v, const float *dw, int64_t n, float rate, double beta1, double beta2,
                 float epsilon, float decay)
{
    /* 1 - 0.999 in float32 would be off by 3e-5 of itself */
    const float keep1 = (float)beta1, take1 = (float)(1 - beta1), keep2 = (float)beta2, take2 = (float)(1 - beta2);
    for (int64_t i = 0; i < n; i += CNX_VL) {
        const int64_t left = n - i;
        const vf weight = load_row(w + i, left), gradient = load_row(dw + i, left);
        const vf mean = keep1 * load_row(m + i, left) + take1 * gradient;
        const vf square = keep2 * load_row(v + i, left) + take2 * (gradient * gradient);
        store_row(m + i, mean, left);
        store_row(v + i, square, left);
        store_row(w + i, weight - decay * weight - rate * mean / (sqrt_v(square) + epsilon), left);
    }
}
static void rmsprop(float *w, float *square, float *velocity, const float *dw, int64_t n, float rate, double keep,
                    double take, float momentum, float epsilon, float decay)
{
    const float kept = (float)keep, taken = (float)take;
    for (int64_t i = 0; i < n; i += CNX_VL) {
        const int64_t left = n - i;
        const vf weight = load_row(w + i, left), gradient = load_row(dw + i, left) + decay * weight;
        const vf mean = kept * load_row(square + i, left) + taken * (gradient * gradient);
        vf step = gradient / (sqrt_v(mean) + epsilon);
        store_row(square + i, mean, left);
        if (velocity) {
            step += momentum * load_row(velocity + i, left);
            store_row(velocity + i, step, left);
        }
        store_row(w + i, weight - rate * step, left);
    }
}
