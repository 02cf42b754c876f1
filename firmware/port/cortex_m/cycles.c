/* Counting cycles: the DWT's counter, or SysTick where an Armv6-M core has no DWT. */
#include "machine.h"

#include "picoformer/port.h"

#if PF_HAS_FAULT_REGISTERS

#define DEMCR      PF_REGISTER(0xE000EDFCu)
#define DWT_CTRL   PF_REGISTER(0xE0001000u)
#define DWT_CYCCNT PF_REGISTER(0xE0001004u)
#define DWT_LAR    PF_REGISTER(0xE0001FB0u)

static int has_counter;

void pf_cycles_init(void) {
    DEMCR |= 1u << 24;     /* TRCENA */
    DWT_LAR = 0xC5ACCE55u; /* a Cortex-M7 keeps it locked */
    DWT_CTRL |= 1u;
    uint32_t before = DWT_CYCCNT;
    for (volatile int i = 0; i < 4; i++) {
    }
    has_counter = DWT_CYCCNT != before; /* an emulator may leave it at 0 */
}

int pf_port_cycles(uint32_t *now) {
    *now = has_counter ? DWT_CYCCNT : 0;
    return has_counter;
}

void pf_port_count_cycles(int on) {
    (void)on; /* it runs for nothing */
}

void pf_cycles_wrapped(void) {
    pf_port_exit(99); /* SysTick was never switched on */
}

#else

#define SYST_CSR    PF_REGISTER(0xE000E010u)
#define SYST_RVR    PF_REGISTER(0xE000E014u)
#define SYST_CVR    PF_REGISTER(0xE000E018u)
#define ICSR        PF_REGISTER(0xE000ED04u)
#define PENDSTSET   (1u << 26)
#define PENDSTCLR   (1u << 25)
#define WHOLE_ROUND 0x1000000u /* 24 bits, which an interrupt extends: a step may take longer */

static volatile uint32_t rounds;

void pf_cycles_init(void) {}

/* It counts down; the round ends, and the interrupt comes, when it reaches 0. */
int pf_port_cycles(uint32_t *now) {
    uint32_t before, value, is_ending;
    do {
        before = rounds;
        value = SYST_CVR;
        is_ending = ICSR & PENDSTSET; /* first this, then rounds: the interrupt may come between the two */
    } while (is_ending != 0 || before != rounds);
    *now = before * WHOLE_ROUND + ((WHOLE_ROUND - value) & (WHOLE_ROUND - 1u));
    return 1;
}

void pf_port_count_cycles(int on) {
    SYST_CSR = 0;
    ICSR = PENDSTCLR;
    rounds = 0;
    SYST_RVR = WHOLE_ROUND - 1u;
    SYST_CVR = 0;                    /* any value written clears it */
    if (on) SYST_CSR = 4u | 2u | 1u; /* the core's clock, with its interrupt */
}

void pf_cycles_wrapped(void) {
    rounds = rounds + 1u;
}

#endif
