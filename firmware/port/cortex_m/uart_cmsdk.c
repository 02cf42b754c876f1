/* UART of Arm's Cortex-M System Design Kit (the MPS2 and MPS3 boards). */
#include "machine.h"

#define UART_DATA     PF_REGISTER(PF_UART_BASE + 0x00u)
#define UART_STATE    PF_REGISTER(PF_UART_BASE + 0x04u)
#define UART_CTRL     PF_REGISTER(PF_UART_BASE + 0x08u)
#define UART_INTCLEAR PF_REGISTER(PF_UART_BASE + 0x0Cu)
#define UART_BAUDDIV  PF_REGISTER(PF_UART_BASE + 0x10u)
#define STATE_TX_FULL 1u
#define STATE_RX_FULL 2u

#define NVIC_ISER  PF_REGISTER(0xE000E100u + 4u * (PF_UART_RX_IRQ / 32u))
#define NVIC_ICER  PF_REGISTER(0xE000E180u + 4u * (PF_UART_RX_IRQ / 32u))
#define NVIC_ICPR  PF_REGISTER(0xE000E280u + 4u * (PF_UART_RX_IRQ / 32u))
#define RX_IRQ_BIT (1u << (PF_UART_RX_IRQ % 32u))

void pf_uart_init(void) {
    UART_BAUDDIV = PF_CLOCK_HZ / PF_UART_BAUD;
    UART_CTRL = 1u | 2u | 8u; /* transmit, receive, receive interrupt (it only ends a wait) */
}

/* The interrupt is enabled while it is masked, and only then: it wakes the core, no handler ever runs. */
static void sleep_until_received(void) {
    __asm__ volatile("cpsid i" ::: "memory");
    UART_INTCLEAR = 2u;
    NVIC_ICPR = RX_IRQ_BIT;
    NVIC_ISER = RX_IRQ_BIT;
    while (!(UART_STATE & STATE_RX_FULL)) __asm__ volatile("wfi" ::: "memory");
    NVIC_ICER = RX_IRQ_BIT;
    __asm__ volatile("dsb\n isb\n cpsie i" ::: "memory");
}

int pf_uart_read(void) {
    if (!(UART_STATE & STATE_RX_FULL)) sleep_until_received();
    return (int)(UART_DATA & 0xFFu);
}

void pf_uart_write(uint8_t byte) {
    while (UART_STATE & STATE_TX_FULL) {
    }
    UART_DATA = byte;
}
