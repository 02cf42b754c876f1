/* Ending the program through the test finisher of QEMU's machine "virt". */
#include "machine.h"

#include "picoformer/port.h"

#define FINISHER PF_REGISTER(0x00100000u)

void pf_port_exit(int status) {
    FINISHER = status == 0 ? 0x5555u : (uint32_t)status << 16 | 0x3333u;
    for (;;) {
    }
}
