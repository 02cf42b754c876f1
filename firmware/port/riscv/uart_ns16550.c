/* UART 16550 with registers a byte apart, its interrupt through a PLIC: QEMU's machine "virt". */
#include "machine.h"

#define UART_DATA        PF_REGISTER_BYTE(PF_UART_BASE + 0u)
#define UART_INTERRUPT   PF_REGISTER_BYTE(PF_UART_BASE + 1u)
#define UART_FIFO        PF_REGISTER_BYTE(PF_UART_BASE + 2u)
#define UART_LINE        PF_REGISTER_BYTE(PF_UART_BASE + 3u)
#define UART_LINE_STATUS PF_REGISTER_BYTE(PF_UART_BASE + 5u)
#define STATUS_RECEIVED  1u
#define STATUS_TX_FREE   0x20u

/* The PLIC's registers for machine mode of the first core. */
#define PLIC               0x0C000000u
#define PLIC_PRIORITY(irq) PF_REGISTER(PLIC + 4u * (irq))
#define PLIC_ENABLE(irq)   PF_REGISTER(PLIC + 0x2000u + 4u * ((irq) / 32u))
#define PLIC_THRESHOLD     PF_REGISTER(PLIC + 0x200000u)
#define PLIC_CLAIM         PF_REGISTER(PLIC + 0x200004u)
#define MIE_EXTERNAL       0x800u

#define DIVISOR ((PF_UART_CLOCK_HZ + 8u * PF_UART_BAUD) / (16u * PF_UART_BAUD))

void pf_uart_init(void) {
    UART_LINE = 0x80u; /* the first two registers are the divisor now */
    UART_DATA = DIVISOR & 0xFFu;
    UART_INTERRUPT = DIVISOR >> 8 & 0xFFu;
    UART_LINE = 3u;      /* 8 bits, no parity */
    UART_FIFO = 7u;      /* on, and empty */
    UART_INTERRUPT = 1u; /* on receipt */
    PLIC_PRIORITY(PF_UART_RX_IRQ) = 1u;
    PLIC_ENABLE(PF_UART_RX_IRQ) |= 1u << (PF_UART_RX_IRQ % 32u);
    PLIC_THRESHOLD = 0;
}

int pf_uart_received(void) {
    return (UART_LINE_STATUS & STATUS_RECEIVED) != 0;
}

/* mstatus.MIE is off outside a step: the interrupt ends the wait, and is never taken. */
static void sleep_until_received(void) {
    __asm__ volatile("csrs mie, %0" : : "r"(MIE_EXTERNAL));
    while (!pf_uart_received()) {
        __asm__ volatile("wfi" ::: "memory");
        PLIC_CLAIM = PLIC_CLAIM; /* claim and complete: it is pending again as long as there is a byte */
    }
    __asm__ volatile("csrc mie, %0" : : "r"(MIE_EXTERNAL));
}

int pf_uart_read(void) {
    if (!pf_uart_received()) sleep_until_received();
    return (int)UART_DATA;
}

void pf_uart_write(uint8_t byte) {
    while (!(UART_LINE_STATUS & STATUS_TX_FREE)) {
    }
    UART_DATA = byte;
}
