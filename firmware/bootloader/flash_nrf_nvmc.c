/* Flash of Nordic's nRF51 and nRF52 through their NVMC (nRF51 reference manual v3.0, nRF52840 product specification v1.7). */
#include <string.h>

#include "../port/cortex_m/machine.h"
#include "flash.h"

#define NVMC_READY     PF_REGISTER(0x4001E400u)
#define NVMC_CONFIG    PF_REGISTER(0x4001E504u)
#define NVMC_ERASEPAGE PF_REGISTER(0x4001E508u)
#define READ_ONLY      0u
#define MAY_WRITE      1u
#define MAY_ERASE      2u

static void configure(uint32_t how) {
    NVMC_CONFIG = how;
    while (!(NVMC_READY & 1u)) {
    }
}

void pf_flash_erase(uint32_t address) {
    configure(MAY_ERASE);
    NVMC_ERASEPAGE = address;
    configure(READ_ONLY); /* waits for the erasure first: the core stands still while it lasts */
}

void pf_flash_write(uint32_t address, const uint8_t *data, uint32_t bytes) {
    configure(MAY_WRITE);
    for (uint32_t at = 0; at < bytes; at += 4u) {
        uint32_t word;
        memcpy(&word, data + at, sizeof word);
        PF_REGISTER(address + at) = word;
        while (!(NVMC_READY & 1u)) {
        }
    }
    configure(READ_ONLY);
}
