/* The vector types and the few operations that the tile primitives are written in.
 *
 * One source, several instruction-set levels: a level file defines CNX_LEVEL (its name), CNX_VL (floats in a vector) and
 * CNX_MAX_NV, then includes level.inc.c, which includes this. Everything here is `static inline`, so no symbol of one
 * level can be linked into another. GCC and Clang vector extensions only: the compiler maps `a * b + c` to one FMA
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

/* The first n < VL floats; the other lanes are zero. */
CNX_INLINE vf load_part(const float *p, int64_t n)
{
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}
CNX_INLINE void store_part(float *p, vf v, int64_t n) { memcpy(p, &v, (size_t)n * sizeof(float)); }

/* mask ? a : b, lane by lane; a mask lane is 0 or -1, as comparisons give it. */
CNX_INLINE vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
/* Ordered so that a NaN in v survives: max_v(v, bound) is NaN where v is. */
CNX_INLINE vf max_v(vf v, vf bound) { return select(v < bound, bound, v); }
CNX_INLINE vf min_v(vf v, vf bound) { return select(v > bound, bound, v); }

#endif
