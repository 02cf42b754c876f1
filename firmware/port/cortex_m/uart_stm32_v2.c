/* USART of the STM32F7, H7, L4, G4 (registers of their own for each direction). */
#include "stm32.h"

#define UART_CR1       PF_REGISTER(PF_UART_BASE + 0x00u)
#define UART_BRR       PF_REGISTER(PF_UART_BASE + 0x0Cu)
#define UART_STATUS    PF_REGISTER(PF_UART_BASE + 0x1Cu) /* ISR */
#define UART_ICR       PF_REGISTER(PF_UART_BASE + 0x20u)
#define UART_RECEIVE   PF_REGISTER(PF_UART_BASE + 0x24u) /* RDR */
#define UART_TRANSMIT  PF_REGISTER(PF_UART_BASE + 0x28u) /* TDR */
#define STATUS_RX_FULL (1u << 5)
#define STATUS_TX_FREE (1u << 7)
#define CR1_ENABLE     (1u << 0)

void pf_uart_init(void) {
    static const pf_register_bits enable[] = PF_UART_ENABLE;
    pf_set_all(enable);
    pf_use_pin(PF_UART_GPIO, PF_UART_TX_PIN, PF_UART_ALTERNATE);
    pf_use_pin(PF_UART_GPIO, PF_UART_RX_PIN, PF_UART_ALTERNATE);
    UART_BRR = (PF_UART_CLOCK_HZ + PF_UART_BAUD / 2u) / PF_UART_BAUD;
    UART_CR1 = CR1_ENABLE | 1u << 3 | 1u << 2 | 1u << 5; /* transmit, receive, receive interrupt (it only ends a wait) */
}

int pf_uart_received(void) {
    return (UART_STATUS & STATUS_RX_FULL) != 0;
}

int pf_uart_read(void) {
    UART_ICR = 1u << 3; /* a lost byte shows as a broken frame; the flag would only hold the interrupt up */
    if (!pf_uart_received()) pf_sleep_until(PF_UART_RX_IRQ, pf_uart_received);
    return (int)(UART_RECEIVE & 0xFFu);
}

void pf_uart_write(uint8_t byte) {
    while (!(UART_STATUS & STATUS_TX_FREE)) {
    }
    UART_TRANSMIT = byte;
}
