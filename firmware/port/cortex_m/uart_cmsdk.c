/* UART of Arm's Cortex-M System Design Kit (the MPS2 and MPS3 boards). */
#include "machine.h"

#define UART_DATA     PF_REGISTER(PF_UART_BASE + 0x00u)
#define UART_STATE    PF_REGISTER(PF_UART_BASE + 0x04u)
#define UART_CTRL     PF_REGISTER(PF_UART_BASE + 0x08u)
#define UART_INTCLEAR PF_REGISTER(PF_UART_BASE + 0x0Cu)
#define UART_BAUDDIV  PF_REGISTER(PF_UART_BASE + 0x10u)
#define STATE_TX_FULL 1u
#define STATE_RX_FULL 2u

void pf_uart_init(void) {
    UART_BAUDDIV = PF_UART_CLOCK_HZ / PF_UART_BAUD;
    UART_CTRL = 1u | 2u | 8u; /* transmit, receive, receive interrupt (it only ends a wait) */
}

int pf_uart_received(void) {
    return (UART_STATE & STATE_RX_FULL) != 0;
}

int pf_uart_read(void) {
    if (!pf_uart_received()) {
        UART_INTCLEAR = 2u;
        pf_sleep_until(PF_UART_RX_IRQ, pf_uart_received);
    }
    return (int)(UART_DATA & 0xFFu);
}

void pf_uart_write(uint8_t byte) {
    while (UART_STATE & STATE_TX_FULL) {
    }
    UART_DATA = byte;
}
