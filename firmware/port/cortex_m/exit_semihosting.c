/* Ending the program through the debugger or emulator (semihosting SYS_EXIT_EXTENDED). */
#include "picoformer/port.h"

void pf_port_exit(int status) {
    const uint32_t block[2] = {0x20026u, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
    register uint32_t operation __asm__("r0") = 0x20u;
    register const uint32_t *argument __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
    for (;;) {
    }
}
