/* The machine timer of a CLINT (SiFive's, and many since) as watchdog: its interrupt ends in the trap handler. */
#include "machine.h"

#define MTIMECMP_LOW  PF_REGISTER(PF_WATCHDOG_BASE + 0x4000u)
#define MTIMECMP_HIGH PF_REGISTER(PF_WATCHDOG_BASE + 0x4004u)
#define MTIME_LOW     PF_REGISTER(PF_WATCHDOG_BASE + 0xBFF8u)
#define MTIME_HIGH    PF_REGISTER(PF_WATCHDOG_BASE + 0xBFFCu)
#define MIE_TIMER     0x80u
#define MSTATUS_MIE   8u

static uint64_t now(void) {
    for (;;) {
        const uint32_t high = MTIME_HIGH, low = MTIME_LOW;
        if (high == MTIME_HIGH) return (uint64_t)high << 32 | low;
    }
}

void pf_watchdog_arm(void) {
    const uint64_t end = now() + (uint64_t)PF_WATCHDOG_SECONDS * PF_WATCHDOG_CLOCK_HZ;
    MTIMECMP_HIGH = 0xFFFFFFFFu; /* no moment in between may be in the past */
    MTIMECMP_LOW = (uint32_t)end;
    MTIMECMP_HIGH = (uint32_t)(end >> 32);
    __asm__ volatile("csrs mie, %0" : : "r"(MIE_TIMER));
    __asm__ volatile("csrs mstatus, %0" : : "r"(MSTATUS_MIE));
}

void pf_watchdog_disarm(void) {
    __asm__ volatile("csrc mstatus, %0" : : "r"(MSTATUS_MIE));
    __asm__ volatile("csrc mie, %0" : : "r"(MIE_TIMER));
}
