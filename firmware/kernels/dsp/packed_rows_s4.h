/* int4 weights for SMLAD: in memory pairs of rows, a byte of each in turn, filled up with zeros, so that a word has four weights
 * of each row in the order that quad layout wants them. Each has 8 added: none is negative. */
#ifndef PF_DSP_PACKED_ROWS_S4_H
#define PF_DSP_PACKED_ROWS_S4_H

#include "linear_strip.h"

/* A `widen` of linear_strip.h: a word a quad, each weight times the multiplier of its block of eight quads, m[0] or m[1] by its
 * row, 1 where there are none. In C, with mask = 0x000F000F and halves the difference of both half words:
 *     for each quad of a block {
 *         *out++ = halves((*packed & mask) * m[0], 0x00080008 * m[0]);
 *         *out++ = halves((*packed >> 4 & mask) * m[0], 0x00080008 * m[0]);
 *         *out++ = halves((*packed >> 8 & mask) * m[1], 0x00080008 * m[1]);
 *         *out++ = halves((*packed++ >> 12 & mask) * m[1], 0x00080008 * m[1]);
 *     } */
#define WIDEN_QUAD_S4                                                                                                            \
    " ldr.w r12, [r0], #4\n and.w r8, lr, r12\n and.w r9, lr, r12, lsr #4\n and.w r10, lr, r12, lsr #8\n"                        \
    " and.w r11, lr, r12, lsr #12\n mul r8, r8, r4\n mul r9, r9, r4\n mul r10, r10, r5\n mul r11, r11, r5\n"                     \
    " ssub16 r8, r8, r6\n ssub16 r9, r9, r6\n ssub16 r10, r10, r7\n ssub16 r11, r11, r7\n stmia.w r1!, {r8-r11}\n"

__attribute__((naked, noinline)) static void widen_packed_s4(void) {
    __asm__ volatile(" push {r2, lr}\n" /* sp: quads that are left, lr */
                     " mov.w lr, #0x000F000F\n"
                     " movs r4, #1\n"
                     " movs r5, #1\n"
                     "1: ldr r2, [sp]\n"
                     " cbz r3, 2f\n"
                     " ldr r5, [sp, #8 + " PF_DSP_BLOCKS "]\n"
                     " ldrb r5, [r3, r5]\n"
                     " ldrb r4, [r3], #1\n"
                     " cmp r2, #8\n"
                     " it gt\n"
                     " movgt r2, #8\n"
                     "2: ldr r6, [sp]\n"
                     " subs r6, r6, r2\n"
                     " str r6, [sp]\n"
                     " mov.w r12, #0x00080008\n"
                     " mul r6, r4, r12\n"
                     " mul r7, r5, r12\n"
                     " lsrs r2, r2, #1\n"
                     " bcc 3f\n" WIDEN_QUAD_S4 " cbz r2, 4f\n"
                     "3: " WIDEN_QUAD_S4 WIDEN_QUAD_S4 " subs r2, r2, #1\n"
                     " bne 3b\n"
                     "4: ldr r2, [sp]\n"
                     " cmp r2, #0\n"
                     " bne 1b\n"
                     " cbz r3, 5f\n"
                     " ldr r2, [sp, #8 + " PF_DSP_BLOCKS "]\n"
                     " add r3, r2\n"
                     "5: pop {r2, pc}\n");
}

#endif
