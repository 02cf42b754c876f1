/* USART of the STM32F1 to F4 (one data register). */
#include "stm32.h"

#define UART_STATUS    PF_REGISTER(PF_UART_BASE + 0x00u) /* SR */
#define UART_RECEIVE   PF_REGISTER(PF_UART_BASE + 0x04u) /* DR */
#define UART_TRANSMIT  PF_REGISTER(PF_UART_BASE + 0x04u)
#define UART_BRR       PF_REGISTER(PF_UART_BASE + 0x08u)
#define UART_CR1       PF_REGISTER(PF_UART_BASE + 0x0Cu)
#define STATUS_RX_FULL (1u << 5)
#define STATUS_TX_FREE (1u << 7)
#define CR1_ENABLE     (1u << 13)

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
    if (!pf_uart_received()) pf_sleep_until(PF_UART_RX_IRQ, pf_uart_received);
    return (int)(UART_RECEIVE & 0xFFu);
}

void pf_uart_write(uint8_t byte) {
    while (!(UART_STATUS & STATUS_TX_FREE)) {
    }
    UART_TRANSMIT = byte;
}
