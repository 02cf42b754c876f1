/* Traps and the watchdog's interrupt: work out what happened, tell the host, end. */
#include "machine.h"

#include "picoformer/port.h"
#include "picoformer/wire.h"

/* mcause (RISC-V privileged architecture 1.12, table 3.6) */
#define CAUSE_INTERRUPT       0x80000000u
#define CAUSE_FETCH_MISALIGN  0u
#define CAUSE_FETCH_FAULT     1u
#define CAUSE_ILLEGAL         2u
#define CAUSE_BREAKPOINT      3u /* what compilers end code with that must not be reached */
#define CAUSE_LOAD_MISALIGNED 4u
#define CAUSE_STORE_FAULT     7u

#define RA 1
#define SP 2

static uint32_t mcause(void) {
    uint32_t value;
    __asm__ volatile("csrr %0, mcause" : "=r"(value));
    return value;
}

static uint32_t mepc(void) {
    uint32_t value;
    __asm__ volatile("csrr %0, mepc" : "=r"(value));
    return value;
}

static uint32_t mtval(void) {
    uint32_t value;
    __asm__ volatile("csrr %0, mtval" : "=r"(value));
    return value;
}

static uint8_t kind_of(uint32_t cause, uint32_t sp) {
    if (sp < (uint32_t)(uintptr_t)pf_stack_limit) return PF_FAULT_STACK_OVERFLOW;
    if (cause & CAUSE_INTERRUPT) return PF_FAULT_HANG;
    if (cause == CAUSE_FETCH_MISALIGN || cause == CAUSE_FETCH_FAULT) return PF_FAULT_BAD_JUMP;
    if (cause == CAUSE_ILLEGAL || cause == CAUSE_BREAKPOINT) return PF_FAULT_UNDEFINED;
    return cause >= CAUSE_LOAD_MISALIGNED && cause <= CAUSE_STORE_FAULT ? PF_FAULT_MEMORY : PF_FAULT_OTHER;
}

void pf_trap_report(const uint32_t *registers) {
    static volatile int reporting;
    pf_fault fault = {0};
    const uint32_t cause = mcause();

    if (reporting) pf_port_exit(98); /* a fault while telling of one */
    reporting = 1;
    pf_watchdog_disarm();
    fault.exception = (uint8_t)(cause & CAUSE_INTERRUPT ? 0x80u | (cause & 0x7Fu) : cause & 0x7Fu);
    fault.pc = mepc();
    fault.lr = registers[RA];
    fault.sp = registers[SP];
    fault.kind = kind_of(cause, registers[SP]);
    if (fault.kind == PF_FAULT_MEMORY) fault.address = mtval();
    pf_wire_fault(&fault);
    pf_port_exit((int)(100u + (cause & 0x7Fu)));
}
