/* When the next reading is due, by the machine's cycle counter and without drift: a period need not be whole cycles. */
#include "capture.h"
#include "picoformer/port.h"

#define SHORTEST 64u
#define LONGEST  (1u << 30)

static uint32_t period, rest, parts; /* a period is period + rest / parts cycles */
static uint32_t due, due_rest;

uint32_t pf_pace_now(void) {
    uint32_t now = 0;
    (void)pf_port_cycles(&now);
    return now;
}

/* A core may have been built without its counter, which then reads as one that stands still. */
int pf_pace_is_there(void) {
    pf_port_count_cycles(1);
    const uint32_t before = pf_pace_now();
    for (volatile int i = 0; i < 8; i++) {
    }
    const int has_moved = pf_pace_now() != before;
    pf_port_count_cycles(0);
    return PF_CLOCK_HZ != 0 && has_moved;
}

int pf_pace_can_keep(uint32_t rate_numerator, uint32_t rate_denominator) {
    const uint64_t cycles = (uint64_t)PF_CLOCK_HZ * rate_denominator / rate_numerator;
    return cycles >= SHORTEST && cycles <= LONGEST;
}

void pf_pace_begin(uint32_t rate_numerator, uint32_t rate_denominator) {
    const uint64_t cycles = (uint64_t)PF_CLOCK_HZ * rate_denominator;
    period = (uint32_t)(cycles / rate_numerator);
    rest = (uint32_t)(cycles % rate_numerator);
    parts = rate_numerator;
    pf_port_count_cycles(1);
    due = pf_pace_now();
    due_rest = 0;
}

int pf_pace_is_due(void) {
    return (int32_t)(pf_pace_now() - due) >= 0;
}

int pf_pace_is_missed(void) {
    return (int32_t)(pf_pace_now() - due - period) >= 0;
}

void pf_pace_next(void) {
    due += period;
    due_rest += rest;
    if (due_rest >= parts) { /* both were below a rate's numerator, 2^30 at most */
        due_rest -= parts;
        due++;
    }
}

void pf_pace_end(void) {
    pf_port_count_cycles(0);
}
