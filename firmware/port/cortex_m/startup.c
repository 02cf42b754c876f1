/* From reset to main: vector table, memory, floating point, stack painting. */
#include "machine.h"

#include "picoformer/port.h"

#define PAINT 0xA5A5A5A5u

/* No interrupt but the watchdog's is ever taken. */
#define EIGHT_INTERRUPTS                                                                                                         \
    pf_fault_entry, pf_fault_entry, pf_fault_entry, pf_fault_entry, pf_fault_entry, pf_fault_entry, pf_fault_entry, pf_fault_entry

int main(void);

static void unexpected_interrupt(void) {
    pf_port_exit(99);
}

typedef void (*vector)(void);

/* The handlers' stack is the main stack; the program runs on the process stack, so that a fault handler never
 * needs the stack that may have overflowed. */
__attribute__((section(".pf_vectors"), used, aligned(256))) static const struct {
    uint32_t *initial_stack;
    vector handlers[15 + 32];
} vectors = {
    pf_fault_stack_top,
    {
        pf_reset,
        pf_fault_entry, /* NMI: the watchdog */
        pf_fault_entry, /* HardFault */
        pf_fault_entry, /* MemManage */
        pf_fault_entry, /* BusFault */
        pf_fault_entry, /* UsageFault */
        pf_fault_entry, /* SecureFault (v8-M) */
        0,
        0,
        0,
        unexpected_interrupt, /* SVCall */
        unexpected_interrupt, /* DebugMonitor */
        0,
        unexpected_interrupt, /* PendSV */
        pf_cycles_wrapped,    /* SysTick */
        EIGHT_INTERRUPTS,
        EIGHT_INTERRUPTS,
        EIGHT_INTERRUPTS,
        EIGHT_INTERRUPTS,
    },
};

__attribute__((naked)) void pf_reset(void) {
    __asm__ volatile(".syntax unified\n"
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
                     "ldr r0, =0xE000ED88\n" /* CPACR: floating point on */
                     "ldr r1, [r0]\n"
                     "movs r2, #15\n"
                     "lsls r2, r2, #20\n"
                     "orrs r1, r2\n"
                     "str r1, [r0]\n"
                     "dsb\n"
                     "isb\n"
#endif
                     "ldr r0, =pf_fault_stack_top\n" /* the handlers', as the vector table says; a bootloader may not */
                     "msr msp, r0\n"
#if PF_HAS_STACK_LIMITS /* handlers may go on into the stack that a fault leaves behind, no further */
                     "ldr r0, =pf_stack_limit\n"
                     "msr psplim, r0\n"
                     "msr msplim, r0\n"
#endif
                     "ldr r0, =pf_stack_top\n"
                     "msr psp, r0\n"
                     "movs r0, #2\n" /* CONTROL.SPSEL: this program's stack is the process stack */
                     "msr control, r0\n"
                     "isb\n"
                     "ldr r0, =pf_start\n"
                     "bx r0\n"
                     ".ltorg\n");
}

static uint32_t *stack_pointer(void) {
    uint32_t *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

void pf_port_stack_forget(void) {
    volatile uint32_t *word = pf_stack_limit;
    uint32_t *end = stack_pointer() - 8; /* this very frame may go a little deeper */
    while (word < end) *word++ = PAINT;
}

void pf_start(void) {
    const volatile uint32_t *from = pf_data_load;
    for (volatile uint32_t *to = pf_data_start; to < pf_data_end;) *to++ = *from++;
    for (volatile uint32_t *to = pf_bss_start; to < pf_bss_end;) *to++ = 0;
    pf_port_stack_forget();
    (void)main();
    pf_port_exit(0);
}

void pf_port_init(void) {
#if PF_HAS_FAULT_REGISTERS
    SCB_VTOR = (uint32_t)(uintptr_t)&vectors; /* a bootloader may have left its own */
    SCB_SHCSR |= 7u << 16;                    /* MemManage, BusFault and UsageFault on their own */
    SCB_CCR |= 1u << 4;                       /* DIV_0_TRP */
#if defined(__ARM_ARCH_8_1M_MAIN__)
    SCB_CCR |= 1u << 19; /* LOB: the ends of low-overhead loops are remembered, so that they cost no cycle */
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
#else
    SCB_CCR |= 1u << 3; /* UNALIGN_TRP: always so on this architecture, but not where an M3 stands in for an M0 */
#endif
    pf_cycles_init();
    pf_mpu_init();
    pf_uart_init();
}

int pf_port_received(void) {
    return pf_uart_received();
}

int pf_port_read(void) {
    return pf_uart_read();
}

void pf_port_write(uint8_t byte) {
    pf_uart_write(byte);
}

void pf_port_flush(void) {}

void pf_port_watchdog(int on) {
    if (on)
        pf_watchdog_arm();
    else
        pf_watchdog_disarm();
}

uint32_t pf_port_stack_bytes(void) {
    return (uint32_t)((uintptr_t)pf_stack_top - (uintptr_t)pf_stack_limit);
}

uint32_t pf_port_stack_used(void) {
    const volatile uint32_t *word = pf_stack_limit;
    while (word < pf_stack_top && *word == PAINT) word++;
    return (uint32_t)((uintptr_t)pf_stack_top - (uintptr_t)word);
}
