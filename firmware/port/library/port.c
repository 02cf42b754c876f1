/* What a program of a vendor's SDK need not define itself; pf_port_read and pf_port_write it must. All can be replaced. */
#include "picoformer/port.h"

#define REPLACEABLE __attribute__((weak))

REPLACEABLE void pf_port_init(void) {}

REPLACEABLE int pf_port_received(void) {
    return 0; /* what records asks this, and defines it */
}

REPLACEABLE void pf_port_flush(void) {}

REPLACEABLE void pf_port_exit(int status) {
    (void)status;
    for (;;) {
    }
}

REPLACEABLE void pf_port_watchdog(int on) {
    (void)on;
}

REPLACEABLE int pf_port_cycles(uint32_t *now) {
    *now = 0;
    return 0;
}

REPLACEABLE void pf_port_count_cycles(int on) {
    (void)on;
}

REPLACEABLE uint32_t pf_port_stack_bytes(void) {
    return PF_STACK_UNKNOWN;
}

REPLACEABLE uint32_t pf_port_stack_used(void) {
    return PF_STACK_UNKNOWN;
}

REPLACEABLE void pf_port_stack_forget(void) {}

REPLACEABLE void pf_port_call_init(void (*init)(void *state), void *state) {
    init(state);
}

REPLACEABLE int pf_port_call_step(int (*step)(void *state), void *state) {
    return step(state);
}
