/* int4 weights for SMLAD: in memory pairs of rows, a byte of each in turn, filled up with zeros, so that a word has four weights
 * of each row in the order that quad layout wants them. */
#ifndef PF_DSP_PACKED_ROWS_S4_H
#define PF_DSP_PACKED_ROWS_S4_H

#include "picoformer/ops.h"

#include "products.h"

/* `count` words of a pair of rows into quad layout, each weight times the multiplier of its row, m[0] or m[1]. In C, with
 * mask = 0x000F000F and halves the difference of both half words:
 *     do {
 *         word = *packed++ ^ 0x88888888; (each weight has 8 added: none is negative, and a product keeps to its half)
 *         *out++ = halves((word & mask) * m[0], 0x00080008 * m[0]);
 *         *out++ = halves((word >> 4 & mask) * m[0], 0x00080008 * m[0]);
 *         *out++ = halves((word >> 8 & mask) * m[1], 0x00080008 * m[1]);
 *         *out++ = halves((word >> 12 & mask) * m[1], 0x00080008 * m[1]);
 *     } while (--count != 0); */
__attribute__((naked, noinline)) static void widen_block(const uint8_t *packed __attribute__((unused)),
                                                         uint32_t *out __attribute__((unused)),
                                                         int32_t count __attribute__((unused)),
                                                         const uint32_t *m __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " ldm r3, {r3, r4}\n"
                     " mov.w r7, #0x000F000F\n"
                     " mov.w lr, #0x88888888\n"
                     " mov.w r12, #0x00080008\n"
                     " mul r5, r3, r12\n"
                     " mul r6, r4, r12\n"
                     "1: ldr r12, [r0], #4\n"
                     " eor.w r12, r12, lr\n"
                     " and.w r8, r7, r12\n"
                     " and.w r9, r7, r12, lsr #4\n"
                     " and.w r10, r7, r12, lsr #8\n"
                     " and.w r11, r7, r12, lsr #12\n"
                     " mul r8, r8, r3\n"
                     " mul r9, r9, r3\n"
                     " mul r10, r10, r4\n"
                     " mul r11, r11, r4\n"
                     " ssub16 r8, r8, r5\n"
                     " ssub16 r9, r9, r5\n"
                     " ssub16 r10, r10, r6\n"
                     " ssub16 r11, r11, r6\n"
                     " stmia.w r1!, {r8-r11}\n"
                     " subs r2, r2, #1\n"
                     " bne 1b\n"
                     " pop {r4-r11, pc}\n");
}

static void widen_rows_s4(const void *parameters, int32_t i, int32_t second, uint32_t *w, int32_t words) {
    const pf_linear_s4 *p = parameters;
    const uint8_t *packed = p->weight + i / 2 * words;
    uint32_t multipliers[2] = {1u, 1u};
    if (p->block_multiplier == 0) {
        widen_block(packed, w, words / 4, multipliers);
        return;
    }
    const int32_t blocks = (p->k + 31) / 32;
    const uint8_t *m = p->block_multiplier + i * blocks;
    for (int32_t b = 0, left = words / 4; b < blocks; b++, left -= 8, packed += 32, w += 32) {
        multipliers[0] = m[b];
        multipliers[1] = m[b + second * blocks];
        widen_block(packed, w, left < 8 ? left : 8, multipliers);
    }
}

#endif
