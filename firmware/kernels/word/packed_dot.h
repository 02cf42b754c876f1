/* Rows of weights with six packed rows, in plain C for cores with enough registers. */
#ifndef PF_WORD_PACKED_DOT_H
#define PF_WORD_PACKED_DOT_H

#include "picoformer/packed_sums.h"

#define PF_WEIGHT_ROWS 2

#define PF_STEP(J)                                                                                                               \
    do {                                                                                                                         \
        const uint32_t u = w[J], v = w1[J], p = a[4 * J], q = a[4 * J + 1], r = a[4 * J + 2], s = a[4 * J + 3];                  \
        u0 += u * p;                                                                                                             \
        u1 += u * q;                                                                                                             \
        u2 += u * r;                                                                                                             \
        u3 += u * s;                                                                                                             \
        v0 += v * p;                                                                                                             \
        v1 += v * q;                                                                                                             \
        v2 += v * r;                                                                                                             \
        v3 += v * s;                                                                                                             \
    } while (0)

static inline void pf_packed_dot(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t count, int32_t *sums) {
    const uint8_t *w1 = w + stride, *const end = w + count;
    uint32_t u0 = a[0], u1 = a[1], u2 = a[2], u3 = a[3], v0 = u0, v1 = u1, v2 = u2, v3 = u3;
    a += 4;
    do {
        PF_STEP(0);
        PF_STEP(1);
        PF_STEP(2);
        PF_STEP(3);
        w += 4;
        w1 += 4;
        a += 16;
    } while (w != end);
    pf_add_unpacked(u0, u1, sums);
    pf_add_unpacked(u2, u3, sums + 3);
    pf_add_unpacked(v0, v1, sums + 6);
    pf_add_unpacked(v2, v3, sums + 9);
}

#endif
