/* From reset to main: memory, stack painting, and what the runtime asks of a port. */
#include "machine.h"

#include "picoformer/port.h"

#define PAINT 0xA5A5A5A5u

int main(void);

static uint32_t *stack_pointer(void) {
    uint32_t *sp;
    __asm__ volatile("mv %0, sp" : "=r"(sp));
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
    pf_pmp_init();
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

/* mcycle counts something else in an emulator: no figure is better than one that looks like cycles. */
int pf_port_cycles(uint32_t *now) {
    *now = 0;
    return 0;
}

void pf_port_count_cycles(int on) {
    (void)on;
}

uint32_t pf_port_stack_bytes(void) {
    return (uint32_t)((uintptr_t)pf_stack_top - (uintptr_t)pf_stack_limit);
}

uint32_t pf_port_stack_used(void) {
    const volatile uint32_t *word = pf_stack_limit;
    while (word < pf_stack_top && *word == PAINT) word++;
    return (uint32_t)((uintptr_t)pf_stack_top - (uintptr_t)word);
}
