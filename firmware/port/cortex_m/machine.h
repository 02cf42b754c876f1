/* Cortex-M registers and linker symbols that the files of this port share. */
#ifndef PF_CORTEX_M_MACHINE_H
#define PF_CORTEX_M_MACHINE_H

#include <stdint.h>

#define PF_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#if defined(__ARM_ARCH_6M__)
#define PF_HAS_FAULT_REGISTERS 0
#else
#define PF_HAS_FAULT_REGISTERS 1
#endif

/* Armv8-M: a push below the limit of its stack faults before it is written. */
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
#define PF_HAS_STACK_LIMITS 1
#else
#define PF_HAS_STACK_LIMITS 0
#endif

#define SCB_VTOR  PF_REGISTER(0xE000ED08u)
#define SCB_CCR   PF_REGISTER(0xE000ED14u)
#define SCB_SHCSR PF_REGISTER(0xE000ED24u)
#define SCB_CFSR  PF_REGISTER(0xE000ED28u)
#define SCB_HFSR  PF_REGISTER(0xE000ED2Cu)
#define SCB_MMFAR PF_REGISTER(0xE000ED34u)
#define SCB_BFAR  PF_REGISTER(0xE000ED38u)

/* Set by the linker script. */
extern uint32_t pf_stack_limit[], pf_stack_top[], pf_fault_stack_top[];
extern uint32_t pf_data_load[], pf_data_start[], pf_data_end[], pf_bss_start[], pf_bss_end[];
extern uint8_t pf_code_start[], pf_code_end[];

static inline int pf_is_code(uint32_t address) {
    return address >= (uint32_t)(uintptr_t)pf_code_start && address < (uint32_t)(uintptr_t)pf_code_end;
}

/* The byte pipe of one kind of UART: uart_<kind>.c. */
void pf_uart_init(void);
int pf_uart_received(void); /* whether a byte is there to be read */
int pf_uart_read(void);     /* waits */
void pf_uart_write(uint8_t byte);

/* watchdog_<kind>.c: its expiry enters pf_fault_entry, as an NMI or as an interrupt. */
void pf_watchdog_arm(void);
void pf_watchdog_disarm(void);

/* Let an interrupt through from now on, what was pending forgotten; no more from now on. */
void pf_interrupt_on(uint32_t irq);
void pf_interrupt_off(uint32_t irq);

/* Sleep until ready() is not 0. What makes it so raises `irq`, which has no handler and needs none. */
void pf_sleep_until(uint32_t irq, int (*ready)(void));

/* cycles.c: bring the counter up; SysTick's handler. */
void pf_cycles_init(void);
void pf_cycles_wrapped(void);

/* Make the code read-only and the addresses below the stack untouchable, where the core has an MPU. */
void pf_mpu_init(void);

/* Entered from the vector table on any fault; ends in pf_fault_report on the fault stack. */
void pf_fault_entry(void);
void pf_fault_report(const uint32_t *frame, uint32_t exception_return) __attribute__((noreturn));

/* The innermost return address found on the stack at or above `from`, and the function it returns from, where
 * the call names it; each 0 when not found. */
void pf_unwind(const uint32_t *from, uint32_t *callee, uint32_t *return_address);

void pf_reset(void);
void pf_start(void) __attribute__((noreturn));

#endif
