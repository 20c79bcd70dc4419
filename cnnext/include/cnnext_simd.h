/* For C that is compiled once per instruction-set level (cnnext.build.kernel_extension, `simd=`).
 *
 * A file of that kind sees CNX_LEVEL (baseline, avx2, avx512) and CNX_VL (floats in a vector of that level). It defines
 * one constant table of functions, all else static, so that the linker can never replace a function of one level by its
 * namesake of another:
 *
 *     const my_table CNX_PER_LEVEL(my_table) = { ... };
 *
 * A header shared with the kernels says CNX_LEVEL_TABLE(my_table) and so declares
 * `const my_table *my_table_for(const char *level)`, to be called with worker->simd->level.
 */
#ifndef CNNEXT_SIMD_H
#define CNNEXT_SIMD_H

#include <string.h>

#define CNX_LEVEL_NAME_(name, level) name##_##level
#define CNX_LEVEL_NAME(name, level) CNX_LEVEL_NAME_(name, level)
#ifdef CNX_LEVEL
#define CNX_PER_LEVEL(name) CNX_LEVEL_NAME(name, CNX_LEVEL)
#endif

#ifdef CNX_HAVE_AVX2
#define CNX_IF_AVX2(code) code
#else
#define CNX_IF_AVX2(code)
#endif
#ifdef CNX_HAVE_AVX512
#define CNX_IF_AVX512(code) code
#else
#define CNX_IF_AVX512(code)
#endif

#define CNX_LEVEL_TABLE(table)                                                         \
    extern const table table##_baseline;                                               \
    CNX_IF_AVX2(extern const table table##_avx2;)                                      \
    CNX_IF_AVX512(extern const table table##_avx512;)                                  \
    static inline const table *table##_for(const char *level)                          \
    {                                                                                  \
        CNX_IF_AVX512(if (strcmp(level, "avx512") == 0) return &table##_avx512;)       \
        CNX_IF_AVX2(if (strcmp(level, "avx2") == 0) return &table##_avx2;)             \
        (void)level;                                                                   \
        return &table##_baseline;                                                      \
    }

#endif
