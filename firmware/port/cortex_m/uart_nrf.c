/* UART of Nordic's nRF51 and nRF52, the one without DMA. Pins count port * 32 + pin. */
#include "machine.h"

#define UART_STARTRX  PF_REGISTER(PF_UART_BASE + 0x000u)
#define UART_STARTTX  PF_REGISTER(PF_UART_BASE + 0x008u)
#define UART_RXDRDY   PF_REGISTER(PF_UART_BASE + 0x108u)
#define UART_TXDRDY   PF_REGISTER(PF_UART_BASE + 0x11Cu)
#define UART_INTENSET PF_REGISTER(PF_UART_BASE + 0x304u)
#define UART_ENABLE   PF_REGISTER(PF_UART_BASE + 0x500u)
#define UART_PSEL_TXD PF_REGISTER(PF_UART_BASE + 0x50Cu)
#define UART_PSEL_RXD PF_REGISTER(PF_UART_BASE + 0x514u)
#define UART_RXD      PF_REGISTER(PF_UART_BASE + 0x518u)
#define UART_TXD      PF_REGISTER(PF_UART_BASE + 0x51Cu)
#define UART_BAUDRATE PF_REGISTER(PF_UART_BASE + 0x524u)
#define INTEN_RXDRDY  (1u << 2)

/* The pins' ports: nRF51 has one; the second of an nRF52840 follows 0x300 bytes on. */
#define GPIO(pin, offset)      PF_REGISTER(0x50000000u + 0x300u * ((pin) / 32u) + (offset))
#define GPIO_OUTSET(pin)       GPIO(pin, 0x508u)
#define GPIO_DIRSET(pin)       GPIO(pin, 0x518u)
#define GPIO_PIN_CONFIG(pin)   GPIO(pin, 0x700u + 4u * ((pin) % 32u))
#define CONFIG_INPUT_PULLED_UP (3u << 2)

/* BAUDRATE is baud * 2^32 / 16 MHz, rounded to the upper 20 bits. */
#define BAUDRATE ((uint32_t)((((uint64_t)PF_UART_BAUD << 32) / 16000000u + 0x800u) & 0xFFFFF000u))

void pf_uart_init(void) {
    GPIO_OUTSET(PF_UART_TX_PIN) = 1u << (PF_UART_TX_PIN % 32u); /* the line rests high */
    GPIO_DIRSET(PF_UART_TX_PIN) = 1u << (PF_UART_TX_PIN % 32u);
    GPIO_PIN_CONFIG(PF_UART_RX_PIN) = CONFIG_INPUT_PULLED_UP;
    UART_PSEL_TXD = PF_UART_TX_PIN;
    UART_PSEL_RXD = PF_UART_RX_PIN;
    UART_BAUDRATE = BAUDRATE;
    UART_ENABLE = 4u;
    UART_INTENSET = INTEN_RXDRDY; /* it only ends a wait */
    UART_STARTTX = 1u;
    UART_STARTRX = 1u;
}

int pf_uart_received(void) {
    return UART_RXDRDY != 0;
}

int pf_uart_read(void) {
    if (!pf_uart_received()) pf_sleep_until(PF_UART_RX_IRQ, pf_uart_received);
    UART_RXDRDY = 0; /* before the byte is taken: the next one may come at once */
    return (int)(UART_RXD & 0xFFu);
}

void pf_uart_write(uint8_t byte) {
    UART_TXDRDY = 0;
    UART_TXD = byte;
    while (UART_TXDRDY == 0) {
    }
}
