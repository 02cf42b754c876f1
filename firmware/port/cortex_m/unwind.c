/* Finding the innermost call on a stack that overflowed, without unwind tables. */
#include "machine.h"

static uint32_t halfword(uint32_t address) {
    return *(const volatile uint16_t *)(uintptr_t)address;
}

/* Where the BL that ends at `after` branches to (Armv7-M ARM, BL encoding T1); 0 when it is no BL. */
static uint32_t bl_target(uint32_t after) {
    uint32_t first = halfword(after - 4u), second = halfword(after - 2u);
    if ((first & 0xF800u) != 0xF000u || (second & 0xD000u) != 0xD000u) return 0;
    uint32_t sign = first >> 10 & 1u;
    uint32_t i1 = ~(second >> 13 ^ sign) & 1u, i2 = ~(second >> 11 ^ sign) & 1u;
    uint32_t offset = i1 << 23 | i2 << 22 | (first & 0x3FFu) << 12 | (second & 0x7FFu) << 1;
    return after + (sign ? offset | 0xFF000000u : offset);
}

void pf_unwind(const uint32_t *from, uint32_t *callee, uint32_t *return_address) {
    *callee = 0;
    *return_address = 0;
    if (from < pf_stack_limit) from = pf_stack_limit;
    for (; from < pf_stack_top; from++) {
        uint32_t after = *from & ~1u;
        if (!(*from & 1u) || !pf_is_code(after) || !pf_is_code(after - 4u)) continue;
        uint32_t target = bl_target(after);
        if (pf_is_code(target)) {
            *callee = target;
            *return_address = *from;
            return;
        }
        if ((halfword(after - 2u) & 0xFF87u) == 0x4780u) { /* BLX register: the callee is not written there */
            *return_address = *from;
            return;
        }
    }
}
