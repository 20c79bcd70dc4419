#define CNX_LEVEL baseline
#define CNX_VL 4
#define CNX_MAX_NV 2
#include "level.inc.c"
