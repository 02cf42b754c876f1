/* The memory that holds the slot, as one kind of it is erased and written: flash_<kind>.c. */
#ifndef PF_BOOT_FLASH_H
#define PF_BOOT_FLASH_H

#include <stdint.h>

/* Make every byte of the page at `address` 0xFF. Returns once that is done; a page is PF_PAGE_BYTES long. */
void pf_flash_erase(uint32_t address);

/* Write words that are erased; `address` and `bytes` are multiples of 4, `data` may lie anywhere. Whoever calls reads back. */
void pf_flash_write(uint32_t address, const uint8_t *data, uint32_t bytes);

#endif
