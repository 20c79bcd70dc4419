#define CNX_LEVEL avx2
#define CNX_VL 8
#define CNX_MAX_NV 2
#include "level.inc.c"
