/* Wrong things done on purpose, so that tests see a fault come back by name. Empty without PF_FAULT_TESTS. */
#include "picoformer/port.h"
#include "wire_internal.h"

#ifdef PF_FAULT_TESTS

#define TEST_FUNCTION __attribute__((noinline)) static

static volatile uintptr_t null_address = 0;
static volatile uintptr_t far_address = (uintptr_t)0xF0000001u;
static volatile uint32_t forever = 1;

TEST_FUNCTION void pf_test_bad_write(void) {
    *(volatile uint32_t *)null_address = 1;
}

TEST_FUNCTION void pf_test_bad_call(void) {
    ((void (*)(void))far_address)();
    forever = 2; /* not a tail call: the return address must name this function */
}

TEST_FUNCTION uint32_t pf_test_stack_overflow(uint32_t depth) {
    volatile uint8_t frame[64];
    for (uint32_t i = 0; i < sizeof frame; i++) frame[i] = (uint8_t)(depth & 0xFFu);
    return forever ? pf_test_stack_overflow(depth + 1u) + frame[depth & 63u] : frame[0];
}

TEST_FUNCTION void pf_test_hang(void) {
    while (forever) {
    }
}

TEST_FUNCTION void pf_test_undefined(void) {
    __builtin_trap();
}

uint8_t pf_fault_test(uint32_t kind) {
    if (kind > 5u || kind == 0) return PF_OUT_OF_RANGE;
    pf_port_watchdog(1);
    if (kind == 1u)
        pf_test_bad_write();
    else if (kind == 2u)
        pf_test_bad_call();
    else if (kind == 3u)
        forever = pf_test_stack_overflow(0);
    else if (kind == 4u)
        pf_test_hang();
    else
        pf_test_undefined();
    pf_port_watchdog(0);
    return PF_OUT_OF_RANGE; /* the machine let it pass: say so instead of pretending */
}

#else

typedef int pf_fault_tests_not_compiled; /* ISO C wants at least one declaration */

#endif
