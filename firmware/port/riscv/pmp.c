/* Physical memory protection: code is read-only, nothing may touch what lies below the stack. */
#include "machine.h"

#define LOCKED  0x80u /* holds in machine mode too */
#define NAPOT   0x18u
#define READ    1u
#define WRITE   2u
#define EXECUTE 4u

/* An area of 2^size_log2 bytes (3 or more), as pmpaddr holds it: address bits 33:2, ones below tell the size. */
static uint32_t area(uint32_t base, uint32_t size_log2) {
    return base >> 2 | ((1u << (size_log2 - 3u)) - 1u);
}

/* Entries go by number, the lowest that fits decides; what none covers machine mode may use. */
void pf_pmp_init(void) {
    uint32_t rights = 0;
#if PF_GUARD_SIZE_LOG2 /* 0: another memory region lies right below the stack */
    const uint32_t below = (uint32_t)(uintptr_t)pf_stack_limit - (1u << PF_GUARD_SIZE_LOG2);
    __asm__ volatile("csrw pmpaddr0, %0" : : "r"(area(below, PF_GUARD_SIZE_LOG2)));
    rights |= LOCKED | NAPOT;
#endif
    __asm__ volatile("csrw pmpaddr1, %0" : : "r"(area((uint32_t)PF_CODE_ORIGIN, PF_CODE_SIZE_LOG2)));
    rights |= (LOCKED | NAPOT | READ | EXECUTE) << 8;
    __asm__ volatile("csrw pmpcfg0, %0" : : "r"(rights));
}
