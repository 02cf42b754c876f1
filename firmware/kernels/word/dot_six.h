/* One column of bytes with six columns of words, in plain C for cores with enough registers. */
#ifndef PF_WORD_DOT_SIX_H
#define PF_WORD_DOT_SIX_H

#include <stdint.h>

#include "keep.h"

static inline void pf_dot_six(const uint8_t *w, const int32_t *a, int32_t count, int32_t *sums) {
    const uint8_t *const end = w + count;
    uint32_t s0 = (uint32_t)sums[0], s1 = (uint32_t)sums[1], s2 = (uint32_t)sums[2];
    uint32_t s3 = (uint32_t)sums[3], s4 = (uint32_t)sums[4], s5 = (uint32_t)sums[5];
    do {
        for (int32_t j = 0; j < 4; j++, w++, a += 6) {
            const uint32_t v = *w;
            PF_MULTIPLY_ADD(s0, v, (uint32_t)a[0]);
            PF_MULTIPLY_ADD(s1, v, (uint32_t)a[1]);
            PF_MULTIPLY_ADD(s2, v, (uint32_t)a[2]);
            PF_MULTIPLY_ADD(s3, v, (uint32_t)a[3]);
            PF_MULTIPLY_ADD(s4, v, (uint32_t)a[4]);
            PF_MULTIPLY_ADD(s5, v, (uint32_t)a[5]);
            PF_KEEP_LOADS();
        }
    } while (w != end);
    sums[0] = (int32_t)s0;
    sums[1] = (int32_t)s1;
    sums[2] = (int32_t)s2;
    sums[3] = (int32_t)s3;
    sums[4] = (int32_t)s4;
    sums[5] = (int32_t)s5;
}

#endif
