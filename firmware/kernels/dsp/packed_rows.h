/* Int8 weights for SMLAD: they lie in pairs of rows, four bytes of each in turn, filled up with zeros. */
#ifndef PF_DSP_PACKED_ROWS_H
#define PF_DSP_PACKED_ROWS_H

/* A `widen` of linear_strip.h: eight bytes a quad. In C:
 *     for (i = 0; i < 2 * quads; i++) { *out++ = even_bytes(*packed); *out++ = odd_bytes(*packed++); } */
#define WIDEN_TWO_QUADS                                                                                                          \
    " ldmia.w r0!, {r8-r11}\n sxtb16 r3, r8\n sxtb16 r4, r8, ror #8\n sxtb16 r5, r9\n sxtb16 r6, r9, ror #8\n"                   \
    " sxtb16 r7, r10\n sxtb16 r8, r10, ror #8\n sxtb16 r9, r11\n sxtb16 r10, r11, ror #8\n stmia.w r1!, {r3-r10}\n"

__attribute__((naked, noinline)) static void widen_packed(void) {
    __asm__ volatile(" subs.w r2, r2, #4\n"
                     " blt 3f\n"
                     "2: " WIDEN_TWO_QUADS WIDEN_TWO_QUADS " subs.w r2, r2, #4\n"
                     " bge 2b\n"
                     "3: lsls.w r2, r2, #31\n" /* bit 1 to carry, bit 0 to sign */
                     " bcc 4f\n" WIDEN_TWO_QUADS "4: bpl 5f\n"
                     " ldmia.w r0!, {r8, r9}\n"
                     " sxtb16 r3, r8\n"
                     " sxtb16 r4, r8, ror #8\n"
                     " sxtb16 r5, r9\n"
                     " sxtb16 r6, r9, ror #8\n"
                     " stmia.w r1!, {r3-r6}\n"
                     "5: bx lr\n");
}

#endif
