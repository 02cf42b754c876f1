/* The same watchdog as watchdog_cmsdk.c, on a board that drives it from its 32 kHz clock (Arm's SSE-300 subsystem). */
#define PF_WATCHDOG_HZ 32000u
#include "watchdog_cmsdk.h"
