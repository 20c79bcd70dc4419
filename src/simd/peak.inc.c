/* What a core can do at most: a loop of multiply-adds that touches no memory, which benchmarks measure others against.
 *
 * Twelve sums hide the latency of the multiply-adds and leave registers for the two constants. Without -ffast-math no
 * compiler may shorten their chains of roundings; and none begins at 1, which stays 1, as GCC finds out.
 */

#define PEAK_SUMS 12

static int64_t fma_loop(int64_t turns, float *dst)
{
    const vf scale = splat(0.999f), shift = splat(0.001f);
    vf sum[PEAK_SUMS];
    CNX_UNROLL for (int i = 0; i < PEAK_SUMS; i++) sum[i] = (float)(i + 2) * shift;
    for (int64_t k = 0; k < turns; k++) CNX_UNROLL for (int i = 0; i < PEAK_SUMS; i++) sum[i] = sum[i] * scale + shift;
    CNX_UNROLL for (int i = 1; i < PEAK_SUMS; i++) sum[0] += sum[i];
    store(dst, sum[0]);
    return turns * PEAK_SUMS * CNX_VL * 2;
}
