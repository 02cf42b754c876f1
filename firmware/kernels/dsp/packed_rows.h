/* Int8 weights for SMLAD: they lie in pairs of rows, four bytes of each in turn, filled up with zeros. */
#ifndef PF_DSP_PACKED_ROWS_H
#define PF_DSP_PACKED_ROWS_H

#include "picoformer/ops.h"

/* A pair of packed rows into quad layout: `quads` times eight bytes. In C:
 *     for (i = 0; i < 2 * quads; i++) { *out++ = even_bytes(packed[i]); *out++ = odd_bytes(packed[i]); } */
__attribute__((naked, noinline)) static void widen_packed(const int8_t *packed __attribute__((unused)),
                                                          uint32_t *out __attribute__((unused)),
                                                          int32_t quads __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " subs r2, r2, #2\n"
                     " blt 3f\n"
                     "2: ldmia.w r0!, {r8-r11}\n"
                     " sxtb16 r3, r8\n"
                     " sxtb16 r4, r8, ror #8\n"
                     " sxtb16 r5, r9\n"
                     " sxtb16 r6, r9, ror #8\n"
                     " sxtb16 r7, r10\n"
                     " sxtb16 r8, r10, ror #8\n"
                     " sxtb16 r9, r11\n"
                     " sxtb16 r10, r11, ror #8\n"
                     " stmia.w r1!, {r3-r10}\n"
                     " subs r2, r2, #2\n"
                     " bge 2b\n"
                     "3: adds r2, r2, #2\n"
                     " beq 4f\n"
                     " ldmia.w r0, {r8, r9}\n"
                     " sxtb16 r3, r8\n"
                     " sxtb16 r4, r8, ror #8\n"
                     " sxtb16 r5, r9\n"
                     " sxtb16 r6, r9, ror #8\n"
                     " stmia.w r1, {r3-r6}\n"
                     "4: pop {r4-r11, pc}\n");
}

static void widen_rows_s8(const void *parameters, int32_t i, int32_t second, uint32_t *w, int32_t words) {
    const pf_linear *p = parameters;
    (void)second;
    widen_packed(p->weight + i * words, w, words / 4);
}

#endif
