/* Sleeping until an interrupt source has something, without a handler ever running. */
#include "machine.h"

#define NVIC_ISER(irq) PF_REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_ICER(irq) PF_REGISTER(0xE000E180u + 4u * ((irq) / 32u))
#define NVIC_ICPR(irq) PF_REGISTER(0xE000E280u + 4u * ((irq) / 32u))

void pf_interrupt_on(uint32_t irq) {
    NVIC_ICPR(irq) = 1u << (irq % 32u);
    NVIC_ISER(irq) = 1u << (irq % 32u);
}

void pf_interrupt_off(uint32_t irq) {
    NVIC_ICER(irq) = 1u << (irq % 32u);
    __asm__ volatile("dsb\n isb" ::: "memory");
    NVIC_ICPR(irq) = 1u << (irq % 32u);
}

/* The interrupt is enabled while it is masked, and only then: it wakes the core, no handler ever runs. */
void pf_sleep_until(uint32_t irq, int (*ready)(void)) {
    __asm__ volatile("cpsid i" ::: "memory");
    pf_interrupt_on(irq);
    while (!ready()) __asm__ volatile("wfi" ::: "memory");
    pf_interrupt_off(irq);
    __asm__ volatile("cpsie i" ::: "memory");
}
