/* Elementary functions of one vector: what libm does for one float, without a call, a table or a branch.
 *
 * Design
 *   Every function reduces its argument, evaluates a polynomial and undoes the reduction. All lanes take the same path:
 *   where a function has two formulas both are computed and one selected, so a result never depends on its neighbours.
 *   The polynomials are minimax fits made for this file: Lawson's weighted least squares on 4000 Chebyshev points, in
 *   double, of the error relative to the function; each coefficient is rounded to float before the next are fitted.
 *   Their own error is at most a third of an ulp.
 *   Only + - * / are used, so the code is right with and without FMA; where a low part matters, the high part has so
 *   few bits that its product is exact either way (Cody & Waite, 1980).
 *   NaN in, NaN out. The argument of exp_v and expm1_v is <= 0 in every use: no overflow, and one multiplication less;
 *   exp_full_v takes any.
 *   Measured, in ulp, over all binary exponents: exp 1.0, expm1 1.6, log 0.8, log1p 1.5, tanh 2.5, sigmoid 2.5,
 *   normal_cdf 4.7, erf 1.3, pow 2.3 for powers up to 4.
 *   Reference: J.-M. Muller, Elementary Functions, 3rd edition, 2016, chapters 3 and 11.
 */

#define LN2_HIGH 0.693359375f /* 10 bits: n * LN2_HIGH is exact */
#define LN2_LOW -2.12194440e-4f
#define LOG2_E 1.44269504f
#define ROUND_BIAS 12582912.0f /* 1.5 * 2^23: x + bias - bias rounds x; the integer also stands in the sum's low bits */
#define FLOAT_MIN 1.17549435e-38f
#define FLOAT_MAX 3.40282347e+38f
#define INFINITE __builtin_inff()

/* c[0] + c[1] x + ... + c[degree] x^degree */
CNX_INLINE vf polynomial(vf x, int degree, const float *c)
{
    vf y = splat(c[degree]);
    CNX_UNROLL for (int i = degree - 1; i >= 0; i--) y = y * x + c[i];
    return y;
}

/* 2^n; n in [-126, 127] */
CNX_INLINE vf power_of_two(vi n) { return (vf)((n + 127) << 23); }

/* exp(r) - 1 for |r| <= ln 2 / 2 */
CNX_INLINE vf expm1_reduced(vf r)
{
    static const float c[] = {0.49999994f, 0.166665167f, 0.0416682847f, 0.00836925022f, 0.00138204684f};
    return r + r * r * polynomial(r, 4, c);
}

/* exp(x + low) for x <= 64 and a `low` so small that x + low would round it away. Down to -150 the factor 2^n is not a
 * normal float, so 2^(n + 32) is applied first. */
CNX_INLINE vf exp_sum(vf x, vf low)
{
    x = max_v(x, splat(-104)); /* exp is 0 there */
    const vf biased = x * LOG2_E + ROUND_BIAS;
    const vf n = biased - ROUND_BIAS;
    const vf r = x - n * LN2_HIGH - (n * LN2_LOW - low);
    const vi n_bits = (vi)biased - (vi)splat(ROUND_BIAS);
    return (1 + expm1_reduced(r)) * power_of_two(n_bits + 32) * 0x1p-32f;
}

CNX_INLINE vf exp_v(vf x) { return exp_sum(x, splat(0)); }

/* exp(x) for any x: 2^n is applied in two halves, each of which is a normal float. */
CNX_INLINE vf exp_full_v(vf x)
{
    x = min_v(max_v(x, splat(-104)), splat(89)); /* 0 and infinity there */
    const vf biased = x * LOG2_E + ROUND_BIAS;
    const vf n = biased - ROUND_BIAS;
    const vf r = x - n * LN2_HIGH - n * LN2_LOW;
    const vi n_bits = (vi)biased - (vi)splat(ROUND_BIAS), half = n_bits >> 1;
    return (1 + expm1_reduced(r)) * power_of_two(half) * power_of_two(n_bits - half);
}

/* exp(x) - 1 for x <= 64, to full relative precision around 0: 2^n (exp(r) - 1) + (2^n - 1). */
CNX_INLINE vf expm1_v(vf x)
{
    x = max_v(x, splat(-30)); /* -1 there */
    const vf biased = x * LOG2_E + ROUND_BIAS;
    const vf n = biased - ROUND_BIAS;
    const vf r = x - n * LN2_HIGH - n * LN2_LOW;
    const vf scale = power_of_two((vi)biased - (vi)splat(ROUND_BIAS));
    return scale * expm1_reduced(r) + (scale - 1);
}

/* log(2^k (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)] */
CNX_INLINE vf log_sum(vf k, vf f)
{
    static const float c[] = {0.333333135f,  -0.250000089f, 0.20002073f,   -0.166679963f, 0.142203271f,
                              -0.124060318f, 0.11883568f,   -0.116714492f, 0.0675095618f};
    return k * LN2_HIGH + (f + (f * f * (f * polynomial(f, 8, c) - 0.5f) + k * LN2_LOW));
}

/* x = 2^k (1 + f) for a finite x > 0, 1 + f as log_sum wants it. */
CNX_INLINE void log_split(vf x, vf *k, vf *f)
{
    const vi sqrt_half = splat_i(0x3f3504f3);
    const vi denormal = x < FLOAT_MIN;
    const vi bits = (vi)select(denormal, x * 0x1p24f, x) - sqrt_half;
    *k = __builtin_convertvector((bits >> 23) - (denormal & 24), vf);
    *f = (vf)((bits & 0x7fffff) + sqrt_half) - 1;
}

CNX_INLINE vf log_v(vf x)
{
    vf k, f;
    log_split(x, &k, &f);
    const vf outside = select(x == 0, splat(-INFINITE), select(x > 0, x, splat(__builtin_nanf(""))));
    return select((x > 0) & (x < INFINITE), log_sum(k, f), outside);
}

/* log(1 + x) for 0 <= x <= 1. Halved, 1 + x is 1 + (x - 1) / 2: f needs no rounded sum. */
CNX_INLINE vf log1p_v(vf x)
{
    const vi halve = x > 0.41421356f;
    return log_sum(select(halve, splat(1), splat(0)), select(halve, 0.5f * (x - 1), x));
}

/* x^p for x >= 0 (NaN and infinity too) and a p that is not 0. With x = 2^k (1 + f), log2(x^p) = p k + p log2(1 + f), and p k may
 * be in the hundreds: its rounding would show in the result. So p is cut in two, and p_high * k is exact. */
CNX_INLINE vf pow_v(vf x, float p)
{
    vf k, f;
    log_split(x, &k, &f);
    const vf p_high = (vf)((vi)splat(p) & ~0xfff);
    const vf log_f = log_sum(splat(0), f);
    const vf rest = (p - p_high) * k, high = p_high * k;
    const vf exponent = min_v(max_v(high + (rest + p * log_f * LOG2_E), splat(-160)), splat(160));
    const vf n = exponent + ROUND_BIAS - ROUND_BIAS;
    const vf r = (high - n + rest) * 0.693147181f + p * log_f;
    const vf y = 1 + expm1_reduced(min_v(max_v(r, splat(-0.4f)), splat(0.4f)));
    const vi n_bits = __builtin_convertvector(n, vi), half = n_bits >> 1;
    return select((x > 0) & (x < INFINITE), y * power_of_two(half) * power_of_two(n_bits - half), p < 0 ? 1 / x : x);
}

CNX_INLINE vf copy_sign(vf magnitude, vf sign)
{
    return (vf)(((vi)magnitude & 0x7fffffff) | ((vi)sign & ~0x7fffffff));
}

/* (1 - e) / (1 + e) with e = exp(-2|x|) */
CNX_INLINE vf tanh_v(vf x)
{
    const vf t = expm1_v(-2 * abs_v(x));
    return copy_sign(t / (t + 2), x);
}

/* 1 / (1 + exp(-x)) as g / (g + g exp(-x)) with g = 2^-32: from -104, where it is 0, to 65, where it is 1, the power of two of
 * g exp(-x) is that of a normal float, so that it is added to the exponent of exp(r) as it stands. The rounding of -x / ln 2
 * leaves n - 32 in the low bits of `biased`. This is the divisor, for x in [-104, 65]; a NaN is lost in integers. */
CNX_INLINE vf sigmoid_divisor(vf x)
{
    static const float c[] = {1, 1, 0.49999994f, 0.166665167f, 0.0416682847f, 0.00836925022f, 0.00138204684f};
    const float bias = ROUND_BIAS - 32;
    const vf biased = bias - x * LOG2_E;
    const vf n = biased - bias;
    const vf r = -x - n * LN2_HIGH - n * LN2_LOW;
    return 0x1p-32f + (vf)((vi)polynomial(r, 6, c) + ((vi)biased << 23));
}

CNX_INLINE vf sigmoid_v(vf x)
{
    x = min_v(max_v(x, splat(-104)), splat(65));
    return (0x1p-32f + 0 * x) / sigmoid_divisor(x);
}

/* x sigmoid(x), 0 at -infinity */
CNX_INLINE vf silu_v(vf x)
{
    x = max_v(x, splat(-104));
    return x * (0x1p-32f / sigmoid_divisor(min_v(x, splat(65))));
}

/* The standard normal distribution: the probability of a value below x, to full relative precision in both tails, and
 * sqrt(2 pi) times the density. Below -a there is exp(-a^2/2) M(a); (a + 5/2) M(a) is a polynomial in a / (a + 5/2).
 * The relative error of exp is the absolute one of a^2/2, so the square is taken in two parts. */
CNX_INLINE vf normal_cdf(vf x, vf *density)
{
    static const float c[] = {1.25f,         -1.24339223f, 0.169607028f,  0.291873842f, 0.0559691079f,
                              -0.149450645f, 0.137301281f, -0.312459379f, 0.279129684f, -0.0796379298f};
    const vf a = min_v(abs_v(x), splat(16)); /* 0 beyond */
    const vf high = (vf)((vi)a & ~0xfff);
    *density = exp_sum(-0.5f * high * high, -0.5f * (a - high) * (a + high));
    const vf w = 1 / (a + 2.5f);
    const vf below = *density * (w * polynomial(a * w, 9, c));
    return select(x < 0, below, 1 - below);
}

/* Below 1, x times a polynomial in x^2; from there on 1 - erfc(x), with erfc(x) = 2 normal_cdf(-sqrt(2) x): it is 0.16 at
 * most, so its error shrinks in the difference. */
CNX_INLINE vf erf_v(vf x)
{
    static const float c[] = {0.128379166f,  -0.37612626f,    0.112835787f,  -0.0268533472f,
                              0.0051871622f, -0.00079978531f, 7.80690316e-05f};
    vf density;
    const vf a = abs_v(x), small = min_v(a, splat(1));
    const vf large = 1 - 2 * normal_cdf(-1.41421356f * a, &density);
    return copy_sign(select(a < 1, small + small * polynomial(small * small, 6, c), large), x);
}

/* To the nearest whole number, halves to the even one. Beyond 2^23 every float is whole. The sign stays, of zeros too. */
CNX_INLINE vf round_v(vf x)
{
    const vf a = abs_v(x);
    return copy_sign(select(a < 0x1p23f, a + 0x1p23f - 0x1p23f, a), x);
}
CNX_INLINE vf floor_v(vf x)
{
    const vf r = round_v(x);
    return select(r > x, r - 1, r);
}
CNX_INLINE vf ceil_v(vf x)
{
    const vf r = round_v(x);
    return copy_sign(select(r < x, r + 1, r), x);
}

/* x^p for any x and any constant p that is not 0: a finite x < 0 to a power that is no whole number is NaN. */
CNX_INLINE vf power_v(vf x, float p)
{
    const float size = __builtin_fabsf(p);
    const int whole = size >= 0x1p24f || size == (float)(int32_t)size;
    const int odd = whole && size < 0x1p24f && ((int32_t)size & 1);
    const vf a = abs_v(x), y = pow_v(a, p);
    return odd ? copy_sign(y, x) : whole ? y : select((x < 0) & (a < INFINITE), splat(__builtin_nanf("")), y);
}
