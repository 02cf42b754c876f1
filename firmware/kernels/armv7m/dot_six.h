/* One column of bytes or halfwords with six columns of words, for ARMv7-M without DSP: 9 instructions for six products. */
#ifndef PF_ARMV7M_DOT_SIX_H
#define PF_ARMV7M_DOT_SIX_H

#include <stdint.h>

#define PF_WEIGHT_ROWS 1

#define PF_STEP_SIX(LOAD)                                                                                                        \
    LOAD " ldmia %[a]!, {r3-r5}\n"                                                                                               \
         " mla %[p], r3, r12, %[p]\n"                                                                                            \
         " mla %[q], r4, r12, %[q]\n"                                                                                            \
         " mla %[r], r5, r12, %[r]\n"                                                                                            \
         " ldmia %[a]!, {r3-r5}\n"                                                                                               \
         " mla %[s], r3, r12, %[s]\n"                                                                                            \
         " mla %[t], r4, r12, %[t]\n"                                                                                            \
         " mla %[u], r5, r12, %[u]\n"
#define PF_FOUR_STEPS(LOAD) PF_STEP_SIX(LOAD) PF_STEP_SIX(LOAD) PF_STEP_SIX(LOAD) PF_STEP_SIX(LOAD)

/* In C: for (; w != end; w++, a += 6) { p += *w * a[0]; q += *w * a[1]; ... u += *w * a[5]; } */
#define PF_DEFINE_DOT_SIX(IN, WORD, LOAD)                                                                                        \
    static inline void pf_dot_six_##IN(const WORD *w, int32_t stride, const int32_t *a, int32_t count, int32_t *sums) {          \
        (void)stride;                                                                                                            \
        const WORD *const end = w + count;                                                                                       \
        int32_t p = sums[0], q = sums[1], r = sums[2], s = sums[3], t = sums[4], u = sums[5];                                    \
        __asm__ volatile(                                                                                                        \
            "1:\n" PF_FOUR_STEPS(LOAD) PF_FOUR_STEPS(LOAD) " cmp %[w], %[end]\n"                                                 \
                                                           " bne 1b\n"                                                           \
            : [w] "+r"(w), [a] "+r"(a), [p] "+r"(p), [q] "+r"(q), [r] "+r"(r), [s] "+r"(s), [t] "+r"(t), [u] "+r"(u)             \
            : [end] "r"(end)                                                                                                     \
            : "r3", "r4", "r5", "r12", "cc", "memory");                                                                          \
        sums[0] = p;                                                                                                             \
        sums[1] = q;                                                                                                             \
        sums[2] = r;                                                                                                             \
        sums[3] = s;                                                                                                             \
        sums[4] = t;                                                                                                             \
        sums[5] = u;                                                                                                             \
    }

#define PF_DEFINE_DOT_SIX_s8()  PF_DEFINE_DOT_SIX(s8, uint8_t, " ldrb r12, [%[w]], #1\n")
#define PF_DEFINE_DOT_SIX_s16() PF_DEFINE_DOT_SIX(s16, uint16_t, " ldrh r12, [%[w]], #2\n")

#endif
