/* RISC-V registers and linker symbols that the files of this port share. */
#ifndef PF_RISCV_MACHINE_H
#define PF_RISCV_MACHINE_H

#include <stdint.h>

#define PF_REGISTER(address)      (*(volatile uint32_t *)(uintptr_t)(address))
#define PF_REGISTER_BYTE(address) (*(volatile uint8_t *)(uintptr_t)(address))

/* Set by the linker script. */
extern uint32_t pf_stack_limit[], pf_stack_top[];
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

/* watchdog_<kind>.c: its expiry is the machine timer interrupt. */
void pf_watchdog_arm(void);
void pf_watchdog_disarm(void);

/* Make the code read-only and the addresses below the stack untouchable, where the core has PMP. */
void pf_pmp_init(void);

/* entry.S. A trap ends in pf_trap_report on the trap stack; `registers` are x0 to x31 as they were (x0: not written). */
void pf_reset(void);
void pf_trap_entry(void);
void pf_trap_report(const uint32_t *registers) __attribute__((noreturn));

void pf_start(void) __attribute__((noreturn));

#endif
