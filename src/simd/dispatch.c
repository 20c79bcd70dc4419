#include <string.h>
#include "dispatch.h"

/* __builtin_cpu_supports answers for CPU and OS: the compilers' runtimes also ask XGETBV whether the system saves the
 * wide registers (GCC since 7.4, its bug 85100). */
#ifdef CNX_HAVE_AVX2
static int cpu_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#ifdef CNX_HAVE_AVX512
static int cpu_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

int cnx_simd_levels(const cnx_simd **out)
{
    int count = 0;
    out[count++] = &cnx_simd_baseline;
#ifdef CNX_HAVE_AVX2
    if (cpu_has_avx2())
        out[count++] = &cnx_simd_avx2;
#endif
#ifdef CNX_HAVE_AVX512
    if (cpu_has_avx512())
        out[count++] = &cnx_simd_avx512;
#endif
    return count;
}

const cnx_simd *cnx_simd_select(const char *name)
{
    const cnx_simd *levels[CNX_MAX_LEVELS];
    int count = cnx_simd_levels(levels);
    if (!name)
        return levels[count - 1];
    for (int i = 0; i < count; i++)
        if (!strcmp(levels[i]->level, name))
            return levels[i];
    return NULL;
}

int cnx_simd_status(const char *name)
{
    static const char *const known[CNX_MAX_LEVELS] = {"baseline", "avx2", "avx512"};
    if (cnx_simd_select(name))
        return CNX_LEVEL_OK;
    for (int i = 0; i < CNX_MAX_LEVELS; i++)
        if (!strcmp(known[i], name))
            return CNX_LEVEL_UNSUPPORTED;
    return CNX_LEVEL_UNKNOWN;
}

const char *cnx_unary_name(int op)
{
#define CNX_NAME(NAME, name, saved) #name,
    static const char *const names[CNX_UNARY_COUNT] = {CNX_UNARY_OPS(CNX_NAME)};
#undef CNX_NAME
    return op >= 0 && op < CNX_UNARY_COUNT ? names[op] : NULL;
}

const char *cnx_binary_name(int op)
{
#define CNX_NAME(NAME, name) #name,
    static const char *const names[CNX_BINARY_COUNT] = {CNX_BINARY_OPS(CNX_NAME)};
#undef CNX_NAME
    return op >= 0 && op < CNX_BINARY_COUNT ? names[op] : NULL;
}

int cnx_unary_saves_output(int op)
{
#define CNX_SAVED(NAME, name, saved) #saved[0] == 'y',
    static const char saves_output[CNX_UNARY_COUNT] = {CNX_UNARY_OPS(CNX_SAVED)};
#undef CNX_SAVED
    return op >= 0 && op < CNX_UNARY_COUNT && saves_output[op];
}
