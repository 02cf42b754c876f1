/* How long to listen: SysTick counts, or where a core was built without one (a Cortex-M0 may be), the questions do. */
#include "../port/cortex_m/machine.h"
#include "boot.h"

#define SYST_CSR          PF_REGISTER(0xE000E010u)
#define SYST_RVR          PF_REGISTER(0xE000E014u)
#define SYST_CVR          PF_REGISTER(0xE000E018u)
#define WHOLE_RANGE       0x00FFFFFFu
#define CYCLES_A_MS       (PF_CLOCK_HZ / 1000u)
#define CYCLES_A_QUESTION 16u /* at least: without SysTick it listens longer than it says, never shorter */

static uint32_t last, spare, left;
static int has_counter;

void pf_clock_begin(void) {
    SYST_RVR = WHOLE_RANGE;
    SYST_CVR = 0;
    SYST_CSR = 4u | 1u; /* the core's clock, no interrupt */
    last = SYST_CVR;
    for (volatile int i = 0; i < 8; i++) {
    }
    has_counter = SYST_CVR != last;
}

void pf_clock_set(uint32_t milliseconds) {
    left = milliseconds;
    spare = 0;
    last = SYST_CVR;
}

int pf_clock_is_over(void) {
    const uint32_t now = SYST_CVR;
    spare += has_counter ? (last - now) & WHOLE_RANGE : CYCLES_A_QUESTION;
    last = now;
    for (; spare >= CYCLES_A_MS && left > 0; spare -= CYCLES_A_MS) left--;
    return left == 0;
}

void pf_clock_end(void) {
    SYST_CSR = 0;
    SYST_CVR = 0;
}
