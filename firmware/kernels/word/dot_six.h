/* Two columns of bytes or halfwords with six columns of words, in plain C for cores with enough registers: 32 instructions for
 * twelve products. */
#ifndef PF_WORD_DOT_SIX_H
#define PF_WORD_DOT_SIX_H

#include <stdint.h>

#include "keep.h"

#define PF_WEIGHT_ROWS 2

#define PF_STEP_SIX(J)                                                                                                           \
    do {                                                                                                                         \
        const uint32_t u = w0[J], v = w1[J];                                                                                     \
        uint32_t x;                                                                                                              \
        x = (uint32_t)a[6 * J + 0];                                                                                              \
        PF_MULTIPLY_ADD(u0, u, x);                                                                                               \
        PF_MULTIPLY_ADD(v0, v, x);                                                                                               \
        x = (uint32_t)a[6 * J + 1];                                                                                              \
        PF_MULTIPLY_ADD(u1, u, x);                                                                                               \
        PF_MULTIPLY_ADD(v1, v, x);                                                                                               \
        x = (uint32_t)a[6 * J + 2];                                                                                              \
        PF_MULTIPLY_ADD(u2, u, x);                                                                                               \
        PF_MULTIPLY_ADD(v2, v, x);                                                                                               \
        x = (uint32_t)a[6 * J + 3];                                                                                              \
        PF_MULTIPLY_ADD(u3, u, x);                                                                                               \
        PF_MULTIPLY_ADD(v3, v, x);                                                                                               \
        x = (uint32_t)a[6 * J + 4];                                                                                              \
        PF_MULTIPLY_ADD(u4, u, x);                                                                                               \
        PF_MULTIPLY_ADD(v4, v, x);                                                                                               \
        x = (uint32_t)a[6 * J + 5];                                                                                              \
        PF_MULTIPLY_ADD(u5, u, x);                                                                                               \
        PF_MULTIPLY_ADD(v5, v, x);                                                                                               \
        PF_KEEP_LOADS();                                                                                                         \
    } while (0)

#define PF_DEFINE_DOT_SIX(IN, WORD)                                                                                              \
    static inline void pf_dot_six_##IN(const WORD *w, int32_t stride, const int32_t *a, int32_t count, int32_t *sums) {          \
        const WORD *w0 = w, *w1 = w + stride, *const end = w + count;                                                            \
        uint32_t u0 = (uint32_t)sums[0], v0 = (uint32_t)sums[6];                                                                 \
        uint32_t u1 = (uint32_t)sums[1], v1 = (uint32_t)sums[7];                                                                 \
        uint32_t u2 = (uint32_t)sums[2], v2 = (uint32_t)sums[8];                                                                 \
        uint32_t u3 = (uint32_t)sums[3], v3 = (uint32_t)sums[9];                                                                 \
        uint32_t u4 = (uint32_t)sums[4], v4 = (uint32_t)sums[10];                                                                \
        uint32_t u5 = (uint32_t)sums[5], v5 = (uint32_t)sums[11];                                                                \
        do {                                                                                                                     \
            PF_STEP_SIX(0);                                                                                                      \
            PF_STEP_SIX(1);                                                                                                      \
            PF_STEP_SIX(2);                                                                                                      \
            PF_STEP_SIX(3);                                                                                                      \
            w0 += 4;                                                                                                             \
            w1 += 4;                                                                                                             \
            a += 24;                                                                                                             \
        } while (w0 != end);                                                                                                     \
        sums[0] = (int32_t)u0;                                                                                                   \
        sums[6] = (int32_t)v0;                                                                                                   \
        sums[1] = (int32_t)u1;                                                                                                   \
        sums[7] = (int32_t)v1;                                                                                                   \
        sums[2] = (int32_t)u2;                                                                                                   \
        sums[8] = (int32_t)v2;                                                                                                   \
        sums[3] = (int32_t)u3;                                                                                                   \
        sums[9] = (int32_t)v3;                                                                                                   \
        sums[4] = (int32_t)u4;                                                                                                   \
        sums[10] = (int32_t)v4;                                                                                                  \
        sums[5] = (int32_t)u5;                                                                                                   \
        sums[11] = (int32_t)v5;                                                                                                  \
    }

#define PF_DEFINE_DOT_SIX_s8()  PF_DEFINE_DOT_SIX(s8, uint8_t)
#define PF_DEFINE_DOT_SIX_s16() PF_DEFINE_DOT_SIX(s16, uint16_t)

#endif
