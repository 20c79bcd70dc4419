/* The vector types and the few operations that the tile primitives are written in.
 *
 * One source, several instruction-set levels: a level file defines CNX_LEVEL (its name), CNX_VL (floats in a vector)
 * and CNX_MAX_NV, then includes level.inc.c, which includes this. Everything here is `static inline`, so no symbol of
 * one level can be linked into another. GCC and Clang vector extensions only: the compiler maps `a * b + c` to one FMA
 * where the level has it (GCC contracts by default; -ffast-math would split them again and is never used).
 */
#ifndef CNX_VEC_H
#define CNX_VEC_H

#include <stdint.h>
#include <string.h>
#include "cnnext_plugin.h"

#define CNX_INLINE static inline __attribute__((always_inline))

/* A vector in a register, and the same vector at an address that may be aligned to nothing but a float. */
typedef float vf __attribute__((vector_size(CNX_VL * 4)));
typedef int32_t vi __attribute__((vector_size(CNX_VL * 4)));
typedef float vf_mem __attribute__((vector_size(CNX_VL * 4), aligned(4), may_alias));

CNX_INLINE vf load(const float *p) { return *(const vf_mem *)p; }
CNX_INLINE void store(float *p, vf v) { *(vf_mem *)p = v; }
CNX_INLINE vf splat(float x) { return x - (vf){0}; }
CNX_INLINE vi splat_i(int32_t x) { return x - (vi){0}; }

/* For loops over an array of registers: only a fully unrolled one keeps the array out of memory. */
#define CNX_UNROLL _Pragma("GCC unroll 32")
/* A loop over lanes that becomes one instruction. GCC has no `mask ? a : b` on vectors in C and no name for a masked
 * load, but its vectorizer finds both, unless the loop was unrolled before. Clang knows the bitwise forms instead. */
#ifdef __clang__
#define CNX_LANES(i) for (int i = 0; i < CNX_VL; i++)
#else
#define CNX_LANES(i) _Pragma("GCC ivdep") _Pragma("GCC unroll 1") for (int i = 0; i < CNX_VL; i++)
#endif

/* The first n < VL floats; the other lanes are zero, and the memory behind the n is not touched. */
#if CNX_VL == 4
CNX_INLINE vf load_part(const float *p, int64_t n)
{
    switch (n) {
    case 1: return (vf){p[0]};
    case 2: return (vf){p[0], p[1]};
    case 3: return (vf){p[0], p[1], p[2]};
    default: return (vf){0};
    }
}
CNX_INLINE void store_part(float *p, vf v, int64_t n)
{
    if (n > 0) p[0] = v[0];
    if (n > 1) p[1] = v[1];
    if (n > 2) p[2] = v[2];
}
#elif defined(__clang__)
CNX_INLINE void copy_part(float *dst, const float *src, int64_t n)
{
    for (int64_t bit = CNX_VL / 2; bit; bit /= 2)
        if (n & bit) {
            memcpy(dst, src, (size_t)bit * sizeof(float));
            dst += bit;
            src += bit;
        }
}
CNX_INLINE vf load_part(const float *p, int64_t n)
{
    float lane[CNX_VL] = {0};
    copy_part(lane, p, n);
    return load(lane);
}
CNX_INLINE void store_part(float *p, vf v, int64_t n)
{
    float lane[CNX_VL];
    store(lane, v);
    copy_part(p, lane, n);
}
#else
CNX_INLINE vf load_part(const float *restrict p, int64_t n)
{
    vf v;
    const int32_t end = (int32_t)n;
    CNX_LANES(i) v[i] = i < end ? p[i] : 0;
    return v;
}
CNX_INLINE void store_part(float *restrict p, vf v, int64_t n)
{
    const int32_t end = (int32_t)n;
    CNX_LANES(i) if (i < end) p[i] = v[i];
}
#endif
/* A row walked in steps of VL, `left` floats before its end: one copy of a formula serves the vectors and the tail, so
 * an element gets the same bits wherever it lies. */
CNX_INLINE vf load_row(const float *p, int64_t left) { return left >= CNX_VL ? load(p) : load_part(p, left); }
CNX_INLINE void store_row(float *p, vf v, int64_t left)
{
    if (left >= CNX_VL)
        store(p, v);
    else
        store_part(p, v, left);
}

/* mask ? a : b, lane by lane; a mask lane is 0 or -1, as comparisons give it. */
#ifdef __clang__
CNX_INLINE vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
#define CNX_SELECT_LANES(V, BOUND, OP) return select(V OP BOUND, BOUND, V);
#else
CNX_INLINE vf select(vi mask, vf a, vf b)
{
    vf r;
    CNX_LANES(i) r[i] = mask[i] ? a[i] : b[i];
    return r;
}
#define CNX_SELECT_LANES(V, BOUND, OP)                                                                                 \
    vf r;                                                                                                              \
    CNX_LANES(i) r[i] = V[i] OP BOUND[i] ? BOUND[i] : V[i];                                                            \
    return r;
#endif
/* The same vector, of which the compiler no longer knows the lanes: of a constant bound GCC turns the comparison round and then
 * finds two instructions instead of one. */
#if defined(__x86_64__) && !defined(__clang__)
CNX_INLINE vf not_folded(vf v)
{
    if (__builtin_constant_p(v[0])) __asm__("" : "+v"(v));
    return v;
}
#else
CNX_INLINE vf not_folded(vf v) { return v; }
#endif
/* Ordered so that a NaN in v survives: max_v(v, bound) is NaN where v is. One instruction on x86. */
CNX_INLINE vf max_v(vf v, vf bound)
{
    bound = not_folded(bound);
    CNX_SELECT_LANES(v, bound, <)
}
CNX_INLINE vf min_v(vf v, vf bound)
{
    bound = not_folded(bound);
    CNX_SELECT_LANES(v, bound, >)
}
/* The larger, or the NaN if either is one: numpy.maximum, numpy.minimum. */
CNX_INLINE vf maximum_v(vf a, vf b) { return select(b != b, b, max_v(a, b)); }
CNX_INLINE vf minimum_v(vf a, vf b) { return select(b != b, b, min_v(a, b)); }

CNX_INLINE vf abs_v(vf v) { return (vf)((vi)v & 0x7fffffff); }
CNX_INLINE vf sqrt_v(vf v)
{
    vf r;
    CNX_LANES(i) r[i] = __builtin_sqrtf(v[i]);
    return r;
}

/* -1 in the first n lanes, 0 in the others. */
CNX_INLINE vi first_lanes(int64_t n)
{
    vi index;
    CNX_LANES(i) index[i] = i;
    return index < splat_i(n < CNX_VL ? (int32_t)n : CNX_VL);
}
/* The halves are folded onto each other until one lane is left, so the order is fixed. */
#define CNX_FOLD(v, OP)                                                                                                \
    float lane[CNX_VL];                                                                                                \
    store(lane, v);                                                                                                    \
    CNX_UNROLL for (int half = CNX_VL / 2; half; half /= 2)                                                            \
        CNX_UNROLL for (int i = 0; i < half; i++) lane[i] = OP(lane[i], lane[i + half]);                               \
    return lane[0];
#define CNX_PLUS(a, b) ((a) + (b))
#define CNX_LARGER(a, b) ((a) < (b) ? (b) : (a))
CNX_INLINE float sum_lanes(vf v) { CNX_FOLD(v, CNX_PLUS) }
CNX_INLINE float max_lanes(vf v) { CNX_FOLD(v, CNX_LARGER) }

#endif
