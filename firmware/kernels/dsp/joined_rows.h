/* Int8 weights for SMLALD: rows in pairs, both in a halfword h = 256 * second + first, filled up with zeros to four columns. */
#ifndef PF_DSP_JOINED_ROWS_H
#define PF_DSP_JOINED_ROWS_H

/* A `widen` of linear_strip.h: two words a quad, which become the pairs (a0,a1) (a2,a3) (b0,b1) (b2,b3). In C, with low(word) the
 * pair of its bytes 0 and 2, high(word) that of 1 and 3, and a subtraction of halfwords:
 *     for (; quads > 0; quads--, packed += 2, out += 4) {
 *         out[0] = low(packed[0]), out[1] = low(packed[1]);
 *         out[2] = high(packed[0] - out[0]), out[3] = high(packed[1] - out[1]);
 *     } */
#define WIDEN_JOINED_QUAD(A, B, FIRST)                                                                                           \
    " sxtb16 " FIRST ", " A "\n sxtb16 r6, " B "\n ssub16 r7, " A ", " FIRST "\n ssub16 r8, " B ", r6\n"                         \
    " sxtb16 r7, r7, ror #8\n sxtb16 r8, r8, ror #8\n stmia.w r1!, {" FIRST ", r6-r8}\n"

__attribute__((naked, noinline)) static void widen_joined(void) {
    __asm__ volatile(" subs.w r2, r2, #2\n"
                     " blt 3f\n"
                     "2: ldmia.w r0!, {r9-r12}\n" WIDEN_JOINED_QUAD("r9", "r10", "r5") WIDEN_JOINED_QUAD(
                         "r11", "r12", "r5") " subs.w r2, r2, #2\n"
                                             " bge 2b\n"
                                             "3: lsls.w r2, r2, #31\n" /* whether one is left */
                                             " bpl 4f\n"
                                             " ldmia.w r0!, {r9, r10}\n" WIDEN_JOINED_QUAD("r9", "r10", "r5") "4: bx lr\n");
}

#endif
