/* One column of bytes or halfwords with six columns of words, for ARMv6-M: 15 instructions for six products. */
#ifndef PF_ARMV6M_DOT_SIX_H
#define PF_ARMV6M_DOT_SIX_H

#include <stdint.h>

#define PF_WEIGHT_ROWS 1

#define PF_STEP_SIX(LOAD, OFFSET)                                                                                                \
    " " LOAD " r2, [r0, #" #OFFSET "]\n"                                                                                         \
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

/* The sums live in r8-r12 and lr. `end`: behind the last of w. In C:
 *     for (j = 0; w + j != end; j++) for (c = 0; c < 6; c++) sums[c] += w[j] * a[6 * j + c]; */
#define PF_DEFINE_DOT_SIX(IN, WORD, EIGHT_STEPS, EIGHT)                                                                          \
    __attribute__((naked, noinline)) static void dot_six_##IN(                                                                   \
        const WORD *w __attribute__((unused)), const int32_t *a __attribute__((unused)),                                         \
        const WORD *end __attribute__((unused)), int32_t *sums __attribute__((unused))) {                                        \
        __asm__ volatile(".syntax unified\n"                                                                                     \
                         " push {r4-r7, lr}\n"                                                                                   \
                         " mov r4, r8\n"                                                                                         \
                         " mov r5, r9\n"                                                                                         \
                         " mov r6, r10\n"                                                                                        \
                         " mov r7, r11\n"                                                                                        \
                         " push {r3-r7}\n"                                                                                       \
                         " movs r7, r2\n"                                                                                        \
                         " ldmia r3!, {r4-r6}\n"                                                                                 \
                         " mov r8, r4\n"                                                                                         \
                         " mov r9, r5\n"                                                                                         \
                         " mov r10, r6\n"                                                                                        \
                         " ldmia r3!, {r4-r6}\n"                                                                                 \
                         " mov r11, r4\n"                                                                                        \
                         " mov r12, r5\n"                                                                                        \
                         " mov lr, r6\n"                                                                                         \
                         "1:\n" EIGHT_STEPS " adds r0, #" EIGHT "\n"                                                             \
                         " cmp r0, r7\n"                                                                                         \
                         " bne 1b\n"                                                                                             \
                         " pop {r0}\n"                                                                                           \
                         " mov r3, r8\n"                                                                                         \
                         " mov r4, r9\n"                                                                                         \
                         " mov r5, r10\n"                                                                                        \
                         " stmia r0!, {r3-r5}\n"                                                                                 \
                         " mov r3, r11\n"                                                                                        \
                         " mov r4, r12\n"                                                                                        \
                         " mov r5, lr\n"                                                                                         \
                         " stmia r0!, {r3-r5}\n"                                                                                 \
                         " pop {r4-r7}\n"                                                                                        \
                         " mov r8, r4\n"                                                                                         \
                         " mov r9, r5\n"                                                                                         \
                         " mov r10, r6\n"                                                                                        \
                         " mov r11, r7\n"                                                                                        \
                         " pop {r4-r7, pc}\n");                                                                                  \
    }                                                                                                                            \
    static inline void pf_dot_six_##IN(const WORD *w, int32_t stride, const int32_t *a, int32_t count, int32_t *sums) {          \
        (void)stride;                                                                                                            \
        dot_six_##IN(w, a, w + count, sums);                                                                                     \
    }

#define PF_DEFINE_DOT_SIX_s8()                                                                                                   \
    PF_DEFINE_DOT_SIX(s8, uint8_t,                                                                                               \
                      PF_STEP_SIX("ldrb", 0) PF_STEP_SIX("ldrb", 1) PF_STEP_SIX("ldrb", 2) PF_STEP_SIX("ldrb", 3)                \
                          PF_STEP_SIX("ldrb", 4) PF_STEP_SIX("ldrb", 5) PF_STEP_SIX("ldrb", 6) PF_STEP_SIX("ldrb", 7),           \
                      "8")
#define PF_DEFINE_DOT_SIX_s16()                                                                                                  \
    PF_DEFINE_DOT_SIX(s16, uint16_t,                                                                                             \
                      PF_STEP_SIX("ldrh", 0) PF_STEP_SIX("ldrh", 2) PF_STEP_SIX("ldrh", 4) PF_STEP_SIX("ldrh", 6)                \
                          PF_STEP_SIX("ldrh", 8) PF_STEP_SIX("ldrh", 10) PF_STEP_SIX("ldrh", 12) PF_STEP_SIX("ldrh", 14),        \
                      "16")

#endif
