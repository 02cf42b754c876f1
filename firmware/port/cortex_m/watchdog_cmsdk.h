/* Watchdog of Arm's Cortex-M System Design Kit: the first expiry is an NMI, the second a reset. PF_WATCHDOG_HZ: its clock. */
#ifndef PF_WATCHDOG_CMSDK_H
#define PF_WATCHDOG_CMSDK_H

#include "machine.h"

#define WATCHDOG_LOAD     PF_REGISTER(PF_WATCHDOG_BASE + 0x000u)
#define WATCHDOG_CONTROL  PF_REGISTER(PF_WATCHDOG_BASE + 0x008u)
#define WATCHDOG_INTCLEAR PF_REGISTER(PF_WATCHDOG_BASE + 0x00Cu)
#define WATCHDOG_LOCK     PF_REGISTER(PF_WATCHDOG_BASE + 0xC00u)
#define UNLOCK            0x1ACCE551u

void pf_watchdog_arm(void) {
    WATCHDOG_LOCK = UNLOCK;
    WATCHDOG_LOAD = PF_WATCHDOG_SECONDS * PF_WATCHDOG_HZ;
    WATCHDOG_CONTROL = 3u;
}

void pf_watchdog_disarm(void) {
    WATCHDOG_LOCK = UNLOCK;
    WATCHDOG_CONTROL = 0;
    WATCHDOG_INTCLEAR = 1u;
}

#endif
