/* What the STM32 peripherals of this port share: switching clocks on, and pins to their alternate function. */
#ifndef PF_STM32_H
#define PF_STM32_H

#include "machine.h"

typedef struct pf_register_bits {
    uint32_t address, bits; /* address 0 ends a list */
} pf_register_bits;

/* Set bits, in order. The read after each lets the peripheral's clock arrive before the next access. */
static inline void pf_set_all(const pf_register_bits *list) {
    for (; list->address != 0; list++) {
        PF_REGISTER(list->address) |= list->bits;
        (void)PF_REGISTER(list->address);
    }
}

/* Pin `pin` (0 to 15) of the GPIO port at `gpio` to an alternate function, pulled up (a line at rest is high). */
static inline void pf_use_pin(uint32_t gpio, uint32_t pin, uint32_t function) {
    volatile uint32_t *const alternate = &PF_REGISTER(gpio + 0x20u + 4u * (pin / 8u)); /* AFRL, AFRH */
    *alternate = (*alternate & ~(15u << (4u * (pin % 8u)))) | function << (4u * (pin % 8u));
    PF_REGISTER(gpio + 0x0Cu) = (PF_REGISTER(gpio + 0x0Cu) & ~(3u << (2u * pin))) | 1u << (2u * pin); /* PUPDR */
    PF_REGISTER(gpio) = (PF_REGISTER(gpio) & ~(3u << (2u * pin))) | 2u << (2u * pin);                 /* MODER */
}

#endif
