/* A 32-bit timer of an STM32 (TIM2, TIM5) as watchdog: their own ones reset without a word and cannot be stopped. */
#include "stm32.h"

#define TIM_CR1        PF_REGISTER(PF_WATCHDOG_BASE + 0x00u)
#define TIM_DIER       PF_REGISTER(PF_WATCHDOG_BASE + 0x0Cu)
#define TIM_SR         PF_REGISTER(PF_WATCHDOG_BASE + 0x10u)
#define TIM_EGR        PF_REGISTER(PF_WATCHDOG_BASE + 0x14u)
#define TIM_PSC        PF_REGISTER(PF_WATCHDOG_BASE + 0x28u)
#define TIM_ARR        PF_REGISTER(PF_WATCHDOG_BASE + 0x2Cu)
#define TICKS_A_SECOND (PF_WATCHDOG_CLOCK_HZ / 65536u)

void pf_watchdog_arm(void) {
    static const pf_register_bits enable[] = PF_WATCHDOG_ENABLE;
    pf_set_all(enable);
    TIM_CR1 = 0;
    TIM_PSC = 65535u;
    TIM_ARR = PF_WATCHDOG_SECONDS * TICKS_A_SECOND;
    TIM_EGR = 1u; /* takes the two over and starts from 0 */
    TIM_SR = 0;
    TIM_DIER = 1u;
    pf_interrupt_on(PF_WATCHDOG_IRQ);
    TIM_CR1 = 1u << 3 | 1u; /* once */
}

void pf_watchdog_disarm(void) {
    TIM_CR1 = 0;
    TIM_DIER = 0;
    TIM_SR = 0;
    pf_interrupt_off(PF_WATCHDOG_IRQ);
}
