/* One column of bytes with six columns of words, for ARMv6-M: 15 instructions for six products. */
#ifndef PF_ARMV6M_DOT_SIX_H
#define PF_ARMV6M_DOT_SIX_H

#include <stdint.h>

/* The sums live in r8-r12 and lr. In C:
 *     for (j = 0; j < count; j++) for (c = 0; c < 6; c++) sums[c] += w[j] * a[6 * j + c]; */
#define PF_STEP_SIX(J)                                                                                                           \
    " ldrb r2, [r0, #" #J "]\n"                                                                                                  \
    " ldmia r1!, {r3-r5}\n"                                                                                                      \
    " muls r3, r2\n"                                                                                                             \
    " add r8, r3\n"                                                                                                              \
    " muls r4, r2\n"                                                                                                             \
    " add r9, r4\n"                                                                                                              \
    " muls r5, r2\n"                                                                                                             \
    " add r10, r5\n"                                                                                                             \
    " ldmia r1!, {r3-r5}\n"                                                                                                      \
    " muls r3, r2\n"                                                                                                             \
    " add r11, r3\n"                                                                                                             \
    " muls r4, r2\n"                                                                                                             \
    " add r12, r4\n"                                                                                                             \
    " muls r5, r2\n"                                                                                                             \
    " add lr, r5\n"
__attribute__((naked, noinline)) static void pf_dot_six(const uint8_t *w __attribute__((unused)),
                                                        const int32_t *a __attribute__((unused)),
                                                        int32_t count __attribute__((unused)),
                                                        int32_t *sums __attribute__((unused))) {
    __asm__ volatile(".syntax unified\n"
                     " push {r4-r7, lr}\n"
                     " mov r4, r8\n"
                     " mov r5, r9\n"
                     " mov r6, r10\n"
                     " mov r7, r11\n"
                     " push {r3-r7}\n"
                     " adds r7, r0, r2\n"
                     " ldmia r3!, {r4-r6}\n"
                     " mov r8, r4\n"
                     " mov r9, r5\n"
                     " mov r10, r6\n"
                     " ldmia r3!, {r4-r6}\n"
                     " mov r11, r4\n"
                     " mov r12, r5\n"
                     " mov lr, r6\n"
                     "1:\n" PF_STEP_SIX(0) PF_STEP_SIX(1) PF_STEP_SIX(2) PF_STEP_SIX(3) PF_STEP_SIX(4) PF_STEP_SIX(5)
                         PF_STEP_SIX(6) PF_STEP_SIX(7) " adds r0, #8\n"
                                                       " cmp r0, r7\n"
                                                       " bne 1b\n"
                                                       " pop {r0}\n"
                                                       " mov r3, r8\n"
                                                       " mov r4, r9\n"
                                                       " mov r5, r10\n"
                                                       " stmia r0!, {r3-r5}\n"
                                                       " mov r3, r11\n"
                                                       " mov r4, r12\n"
                                                       " mov r5, lr\n"
                                                       " stmia r0!, {r3-r5}\n"
                                                       " pop {r4-r7}\n"
                                                       " mov r8, r4\n"
                                                       " mov r9, r5\n"
                                                       " mov r10, r6\n"
                                                       " mov r11, r7\n"
                                                       " pop {r4-r7, pc}\n");
}

#endif
