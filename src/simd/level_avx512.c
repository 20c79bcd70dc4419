#define CNX_LEVEL avx512
#define CNX_VL 16
#define CNX_MAX_NV 4
#include "level.inc.c"
