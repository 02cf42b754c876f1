/* A timer of Nordic's nRF51 and nRF52 as watchdog: their own WDT resets without a word and cannot be stopped. */
#include "machine.h"

#define TIMER_START     PF_REGISTER(PF_WATCHDOG_BASE + 0x000u)
#define TIMER_STOP      PF_REGISTER(PF_WATCHDOG_BASE + 0x004u)
#define TIMER_CLEAR     PF_REGISTER(PF_WATCHDOG_BASE + 0x00Cu)
#define TIMER_COMPARE0  PF_REGISTER(PF_WATCHDOG_BASE + 0x140u)
#define TIMER_INTENSET  PF_REGISTER(PF_WATCHDOG_BASE + 0x304u)
#define TIMER_MODE      PF_REGISTER(PF_WATCHDOG_BASE + 0x504u)
#define TIMER_BITMODE   PF_REGISTER(PF_WATCHDOG_BASE + 0x508u)
#define TIMER_PRESCALER PF_REGISTER(PF_WATCHDOG_BASE + 0x510u)
#define TIMER_CC0       PF_REGISTER(PF_WATCHDOG_BASE + 0x540u)
#define TICKS_A_SECOND  31250u /* 16 MHz / 2^9 */

void pf_watchdog_arm(void) {
    TIMER_STOP = 1u;
    TIMER_MODE = 0;
    TIMER_BITMODE = 3u; /* 32 bits */
    TIMER_PRESCALER = 9u;
    TIMER_CC0 = PF_WATCHDOG_SECONDS * TICKS_A_SECOND;
    TIMER_CLEAR = 1u;
    TIMER_COMPARE0 = 0;
    TIMER_INTENSET = 1u << 16;
    pf_interrupt_on(PF_WATCHDOG_IRQ);
    TIMER_START = 1u;
}

void pf_watchdog_disarm(void) {
    TIMER_STOP = 1u;
    TIMER_COMPARE0 = 0;
    pf_interrupt_off(PF_WATCHDOG_IRQ);
}
