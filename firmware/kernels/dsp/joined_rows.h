/* Int8 weights for SMLALD: rows in pairs, both in a halfword h = 256 * second + first, filled up with zeros to four columns. */
#ifndef PF_DSP_JOINED_ROWS_H
#define PF_DSP_JOINED_ROWS_H

/* A `widen` of linear_strip.h: two words a quad, which become the pairs (a0,a1) (a2,a3) (b0,b1) (b2,b3). In C, with low(word) the
 * pair of its bytes 0 and 2, high(word) that of 1 and 3, and a subtraction of halfwords:
 *     for (; quads > 0; quads--, packed += 2, out += 4) {
 *         out[0] = low(packed[0]), out[1] = low(packed[1]);
 *         out[2] = high(packed[0] - out[0]), out[3] = high(packed[1] - out[1]);
 *     } */
#define WIDEN_JOINED(A, B, LOW_A, LOW_B, HIGH_A, HIGH_B)                                                                         \
    " sxtb16 " LOW_A ", " A "\n sxtb16 " LOW_B ", " B "\n ssub16 " HIGH_A ", " A ", " LOW_A "\n ssub16 " HIGH_B ", " B           \
    ", " LOW_B "\n sxtb16 " HIGH_A ", " HIGH_A ", ror #8\n sxtb16 " HIGH_B ", " HIGH_B ", ror #8\n"
#define WIDEN_TWO_JOINED                                                                                                         \
    " ldmia.w r0!, {r9-r12}\n" WIDEN_JOINED("r9", "r10", "r4", "r5", "r6", "r7")                                                 \
        WIDEN_JOINED("r11", "r12", "r8", "r9", "r10", "r11") " stmia.w r1!, {r4-r11}\n"

__attribute__((naked, noinline)) static void widen_joined(void) {
    __asm__ volatile(" subs.w r2, r2, #4\n"
                     " blt 3f\n"
                     "2: " WIDEN_TWO_JOINED WIDEN_TWO_JOINED " subs.w r2, r2, #4\n"
                     " bge 2b\n"
                     "3: lsls.w r2, r2, #31\n" /* bit 1 to carry, bit 0 to sign */
                     " bcc 4f\n" WIDEN_TWO_JOINED "4: bpl 5f\n"
                     " ldmia.w r0!, {r9, r10}\n" WIDEN_JOINED("r9", "r10", "r4", "r5", "r6", "r7") " stmia.w r1!, {r4-r7}\n"
                                                                                                   "5: bx lr\n");
}

#endif
