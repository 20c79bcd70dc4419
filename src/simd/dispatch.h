/* Which table of tile primitives to use, and the names of the elementwise functions. */
#ifndef CNX_DISPATCH_H
#define CNX_DISPATCH_H

#include "cnnext_plugin.h"

#define CNX_MAX_LEVELS 3

extern const cnx_simd cnx_simd_baseline, cnx_simd_avx2, cnx_simd_avx512;

enum {
    CNX_LEVEL_OK = 0,
    CNX_LEVEL_UNKNOWN = 1,      /* no level has this name */
    CNX_LEVEL_UNSUPPORTED = 2   /* not built for this architecture, or the CPU or the OS lacks it */
};

/* CNX_LEVEL_OK where cnx_simd_select gives a table for this name, otherwise why it does not. */
int cnx_simd_status(const char *name);

/* The named level, or for NULL the best that CPU and OS allow; NULL where cnx_simd_status is not CNX_LEVEL_OK. */
const cnx_simd *cnx_simd_select(const char *name);

/* Fills `out` (room for CNX_MAX_LEVELS) with the usable levels, narrow to wide; returns how many. */
int cnx_simd_levels(const cnx_simd **out);

/* The lower-case names of CNX_UNARY_OPS and CNX_BINARY_OPS; NULL outside of [0, CNX_UNARY_COUNT), CNX_BINARY_COUNT. */
const char *cnx_unary_name(int op);
const char *cnx_binary_name(int op);

/* 1 where the backward form of a unary function reads the output y of the forward pass, 0 where the input x. */
int cnx_unary_saves_output(int op);

#endif
