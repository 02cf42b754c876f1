/* Six sums on the grid of the output, for ARMv6-M: 23 instructions each, products by halves of 16 bits. */
#ifndef PF_ARMV6M_FINISH_SIX_H
#define PF_ARMV6M_FINISH_SIX_H

#include "picoformer/packed_sums.h"

/* pf_rounded_high for |a| < 2^29: with a = 2^16 ah + al, b = 2^16 bh + bl, |ah bl| < 2^29, so that
 * rest = al bh + ah bl + (al bl >> 16) + 2^15 + 2^29 is a word without sign, and the result ah bh + (rest >> 16) - 2^13.
 * r4 left, r5 bl, r6 bh, r7 sums, r8 2^15 + 2^29, r9 zero_point - 2^13, r10 y, r11 bytes to the next y. */
#define PF_FINISH_ONE(EXTEND, MAX, STORE)                                                                                        \
    " ldmia r7!, {r0}\n"                                                                                                         \
    " lsls r0, r4\n"                                                                                                             \
    " uxth r1, r0\n"                                                                                                             \
    " asrs r0, r0, #16\n"                                                                                                        \
    " movs r2, r1\n"                                                                                                             \
    " muls r2, r5\n"                                                                                                             \
    " lsrs r2, r2, #16\n"                                                                                                        \
    " movs r3, r0\n"                                                                                                             \
    " muls r3, r5\n"                                                                                                             \
    " adds r2, r2, r3\n"                                                                                                         \
    " muls r1, r6\n"                                                                                                             \
    " adds r1, r1, r2\n"                                                                                                         \
    " add r1, r8\n"                                                                                                              \
    " lsrs r1, r1, #16\n"                                                                                                        \
    " muls r0, r6\n"                                                                                                             \
    " adds r0, r0, r1\n"                                                                                                         \
    " add r0, r9\n"                                                                                                              \
    " " EXTEND " r1, r0\n"                                                                                                       \
    " cmp r1, r0\n"                                                                                                              \
    " beq 1f\n"                                                                                                                  \
    " asrs r1, r0, #31\n" MAX " eors r1, r2\n"                                                                                   \
    "1: mov r2, r10\n"                                                                                                           \
    " " STORE " r1, [r2]\n"                                                                                                      \
    " add r10, r11\n"

#define PF_DEFINE_FINISH_SIX(OUT, TYPE, EXTEND, MAX, STORE)                                                                      \
    __attribute__((naked, noinline)) static void finish_six_##OUT(                                                               \
        const int32_t *sums __attribute__((unused)), const pf_finish *f __attribute__((unused)),                                 \
        TYPE *y __attribute__((unused)), int32_t bytes __attribute__((unused))) {                                                \
        __asm__ volatile(".syntax unified\n"                                                                                     \
                         " push {r4-r7, lr}\n"                                                                                   \
                         " mov r4, r8\n"                                                                                         \
                         " mov r5, r9\n"                                                                                         \
                         " mov r6, r10\n"                                                                                        \
                         " mov r7, r11\n"                                                                                        \
                         " push {r4-r7}\n"                                                                                       \
                         " mov r10, r2\n"                                                                                        \
                         " mov r11, r3\n"                                                                                        \
                         " movs r7, r0\n"                                                                                        \
                         " ldmia r1!, {r0, r4, r6}\n"                                                                            \
                         " movs r1, #1\n"                                                                                        \
                         " lsls r2, r1, #13\n"                                                                                   \
                         " subs r6, r6, r2\n"                                                                                    \
                         " mov r9, r6\n"                                                                                         \
                         " lsls r2, r1, #15\n"                                                                                   \
                         " lsls r1, r1, #29\n"                                                                                   \
                         " adds r1, r1, r2\n"                                                                                    \
                         " mov r8, r1\n"                                                                                         \
                         " uxth r5, r0\n"                                                                                        \
                         " lsrs r6, r0, #16\n" PF_FINISH_ONE(EXTEND, MAX, STORE) PF_FINISH_ONE(EXTEND, MAX, STORE)               \
                             PF_FINISH_ONE(EXTEND, MAX, STORE) PF_FINISH_ONE(EXTEND, MAX, STORE)                                 \
                                 PF_FINISH_ONE(EXTEND, MAX, STORE) PF_FINISH_ONE(EXTEND, MAX, STORE) " pop {r4-r7}\n"            \
                                                                                                     " mov r8, r4\n"             \
                                                                                                     " mov r9, r5\n"             \
                                                                                                     " mov r10, r6\n"            \
                                                                                                     " mov r11, r7\n"            \
                                                                                                     " pop {r4-r7, pc}\n");      \
    }                                                                                                                            \
    static inline void pf_finish_six_##OUT(const int32_t *sums, const pf_finish *f, TYPE *y, int32_t step) {                     \
        finish_six_##OUT(sums, f, y, step *(int32_t)sizeof *y);                                                                  \
    }

PF_DEFINE_FINISH_SIX(s8, int8_t, "sxtb", " movs r2, #127\n", "strb")
PF_DEFINE_FINISH_SIX(s16, int16_t, "sxth", " movs r2, #1\n lsls r2, r2, #15\n subs r2, r2, #1\n", "strh")

#endif
