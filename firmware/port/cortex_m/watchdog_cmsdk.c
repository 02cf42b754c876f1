/* Watchdog of Arm's Cortex-M System Design Kit on the clock of the core. */
#define PF_WATCHDOG_HZ PF_CLOCK_HZ
#include "watchdog_cmsdk.h"
