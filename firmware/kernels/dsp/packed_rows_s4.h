/* int4 weights for SMLAD: in memory pairs of rows, a byte the weights of both, the first row's in the low half, filled up with
 * zeros. Each has 8 added: none is negative, and four of them times a multiplier of 15 at most keep to their bytes. */
#ifndef PF_DSP_PACKED_ROWS_S4_H
#define PF_DSP_PACKED_ROWS_S4_H

#include "linear_strip.h"

/* A `widen` of linear_strip.h: a word a quad, each weight times the multiplier of its block of eight quads, m[0] or m[1] by its
 * row, 1 where there are none. In C, with mask = 0x0F0F0F0F and less(word, m) both half words with 8 * m taken off:
 *     for each quad of a block {
 *         first = (*packed & mask) * m[0], second = (*packed++ >> 4 & mask) * m[1];
 *         *out++ = less(first & 0x00FF00FF, m[0]);
 *         *out++ = less(first >> 8 & 0x00FF00FF, m[0]);
 *         *out++ = less(second & 0x00FF00FF, m[1]);
 *         *out++ = less(second >> 8 & 0x00FF00FF, m[1]);
 *     } */
#define WIDEN_QUAD_S4                                                                                                            \
    " ldr.w r12, [r0], #4\n and.w r11, lr, r12, lsr #4\n and.w r12, lr, r12\n mul r11, r11, r5\n mul r12, r12, r4\n"             \
    " uxtab16 r8, r6, r12\n uxtab16 r9, r6, r12, ror #8\n uxtab16 r10, r7, r11\n uxtab16 r11, r7, r11, ror #8\n"                 \
    " stmia.w r1!, {r8-r11}\n"

__attribute__((naked, noinline)) static void widen_packed_s4(void) {
    __asm__ volatile(" push {r2, lr}\n" /* sp: quads that are left, lr */
                     " mov.w lr, #0x0F0F0F0F\n"
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
                     " rsb.w r6, r6, #0x00010000\n" /* both halves negated */
                     " rsb.w r7, r7, #0x00010000\n"
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
