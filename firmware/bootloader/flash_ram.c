/* Memory for code that is RAM (the boards of Arm's MPS2): it forgets without power, and is written as any other. */
#include <string.h>

#include "flash.h"

void pf_flash_erase(uint32_t address) {
    memset((void *)(uintptr_t)address, 0xFF, PF_PAGE_BYTES);
}

void pf_flash_write(uint32_t address, const uint8_t *data, uint32_t bytes) {
    memcpy((void *)(uintptr_t)address, data, bytes);
}
