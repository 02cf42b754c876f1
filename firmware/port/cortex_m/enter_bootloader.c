/* Leaving for the bootloader: a note in RAM, which survives a reset, then the reset. */
#include "machine.h"

#include "picoformer/port.h"

#ifdef PF_BEHIND_BOOTLOADER

#define SCB_AIRCR PF_REGISTER(0xE000ED0Cu)

void pf_port_enter_bootloader(void) {
    volatile uint32_t *note = pf_stack_limit; /* the first words of RAM, the last ones that the stack would reach */
    for (volatile uint32_t wait = 0; wait < PF_CLOCK_HZ / 1000u; wait++) { /* the last bytes leave the UART */
    }
    note[0] = PF_BOOT_NOTE_0;
    note[1] = PF_BOOT_NOTE_1;
    __asm__ volatile("dsb" ::: "memory");
    SCB_AIRCR = 0x05FA0000u | 1u << 2; /* SYSRESETREQ */
    for (;;) {
    }
}

#else

typedef int pf_no_bootloader_before; /* ISO C wants at least one declaration */

#endif
