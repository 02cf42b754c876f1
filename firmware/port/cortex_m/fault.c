/* Faults and the watchdog's NMI: work out what happened, tell the host, end. */
#include "machine.h"

#include "picoformer/port.h"
#include "picoformer/wire.h"

#define CFSR_IACCVIOL   (1u << 0)
#define CFSR_MSTKERR    (1u << 4)
#define CFSR_MLSPERR    (1u << 5)
#define CFSR_MMARVALID  (1u << 7)
#define CFSR_IBUSERR    (1u << 8)
#define CFSR_STKERR     (1u << 12)
#define CFSR_BFARVALID  (1u << 15)
#define CFSR_UNDEFINSTR (1u << 16)
#define CFSR_INVSTATE   (1u << 17)
#define CFSR_STKOF      (1u << 20) /* v8-M */
#define CFSR_DIVBYZERO  (1u << 25)
#define EXCEPTION_NMI   2u
#define FIRST_INTERRUPT 16u
#define XPSR_THUMB      (1u << 24)

/* r0 = the stacked registers, r1 = EXC_RETURN; the handler starts over at the top of the fault stack. */
__attribute__((naked)) void pf_fault_entry(void) {
    __asm__ volatile(".syntax unified\n"
                     "mov r1, lr\n"
                     "movs r2, #4\n"
                     "mrs r0, psp\n"
                     "tst r1, r2\n"
                     "bne 1f\n"
                     "mrs r0, msp\n"
                     "1: ldr r2, =pf_fault_stack_top\n"
                     "msr msp, r2\n"
                     "ldr r2, =pf_fault_report\n"
                     "bx r2\n"
                     ".ltorg\n");
}

#if PF_HAS_FAULT_REGISTERS

static uint8_t kind_of_fault(uint32_t cfsr, const uint32_t *frame) {
    (void)frame;
    if (cfsr & (CFSR_IACCVIOL | CFSR_IBUSERR | CFSR_INVSTATE)) return PF_FAULT_BAD_JUMP;
    if (cfsr & CFSR_UNDEFINSTR) return PF_FAULT_UNDEFINED;
    if (cfsr & CFSR_DIVBYZERO) return PF_FAULT_ARITHMETIC;
    return cfsr & 0xFFFFu ? PF_FAULT_MEMORY : PF_FAULT_OTHER;
}

#else

/* Armv6-M says no more than HardFault, and a bad jump may even go unnoticed up to the watchdog; the place tells the rest. */
static uint8_t kind_of_fault(uint32_t cfsr, const uint32_t *frame) {
    (void)cfsr;
    if (!(frame[7] & XPSR_THUMB) || !pf_is_code(frame[6])) return PF_FAULT_BAD_JUMP;
    const uint32_t first = *(const volatile uint16_t *)(uintptr_t)frame[6];
    const int is_undefined = (first & 0xFF00u) == 0xDE00u || first >> 11 == 0x1Du || first >> 11 == 0x1Fu;
    return is_undefined ? PF_FAULT_UNDEFINED : PF_FAULT_MEMORY;
}

#endif

static uint8_t kind_of(uint32_t cfsr, uint32_t exception, const uint32_t *frame, int frame_lost) {
    if (frame_lost || (cfsr & (CFSR_STKOF | CFSR_MSTKERR | CFSR_STKERR | CFSR_MLSPERR))) return PF_FAULT_STACK_OVERFLOW;
    const int is_watchdog = exception == EXCEPTION_NMI || exception >= FIRST_INTERRUPT;
    if (is_watchdog && (PF_HAS_FAULT_REGISTERS || pf_is_code(frame[6]))) return PF_FAULT_HANG;
    return kind_of_fault(cfsr, frame);
}

void pf_fault_report(const uint32_t *frame, uint32_t exception_return) {
    static volatile int reporting;
    pf_fault fault = {0};
    uint32_t ipsr, callee, return_address;

    if (reporting) pf_port_exit(98); /* a fault while telling of one */
    reporting = 1;
    pf_watchdog_disarm();
    __asm__ volatile("mrs %0, ipsr" : "=r"(ipsr));
    fault.exception = (uint8_t)(ipsr & 0xFFu);
#if PF_HAS_FAULT_REGISTERS
    fault.cfsr = SCB_CFSR;
    fault.hfsr = SCB_HFSR;
    fault.mmfar = SCB_MMFAR;
    fault.bfar = SCB_BFAR;
    if (fault.cfsr & CFSR_MMARVALID)
        fault.address = fault.mmfar;
    else if (fault.cfsr & CFSR_BFARVALID)
        fault.address = fault.bfar;
#endif
    /* Without the stacked registers (the stack was full when they should have been stored) the place is lost;
     * the innermost call that the stack still shows stands in for it. */
    int frame_lost = frame < pf_stack_limit || frame + 8 > pf_stack_top;
    if (fault.cfsr & (CFSR_MSTKERR | CFSR_STKERR)) frame_lost = 1;
    if ((fault.cfsr & CFSR_STKOF) && frame == pf_stack_limit) frame_lost = 1; /* not stored: it would pass the limit */
    fault.sp = (uint32_t)(uintptr_t)frame + ((exception_return & 0x10u) ? 32u : 104u);
    if (frame_lost) {
        pf_unwind((const uint32_t *)(uintptr_t)fault.sp, &callee, &return_address);
        fault.pc = callee;
        fault.lr = return_address;
    } else {
        fault.lr = frame[5];
        fault.pc = frame[6];
    }
    fault.kind = kind_of(fault.cfsr, fault.exception, frame, frame_lost);
    pf_wire_fault(&fault);
    pf_port_exit((int)(100u + fault.exception));
}
