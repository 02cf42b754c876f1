/* Two rows of weights with six packed rows, in plain C for cores with enough registers: 22 instructions for twelve products. */
#ifndef PF_WORD_PACKED_DOT_H
#define PF_WORD_PACKED_DOT_H

#include "picoformer/packed_sums.h"

#include "keep.h"

#define PF_STEP(J)                                                                                                               \
    do {                                                                                                                         \
        const uint32_t p = a[4 * J], q = a[4 * J + 1], r = a[4 * J + 2], s = a[4 * J + 3];                                       \
        const uint32_t u = w0[J], v = w1[J];                                                                                     \
        PF_MULTIPLY_ADD(u0, u, p);                                                                                               \
        PF_MULTIPLY_ADD(v0, v, p);                                                                                               \
        PF_MULTIPLY_ADD(u1, u, q);                                                                                               \
        PF_MULTIPLY_ADD(v1, v, q);                                                                                               \
        PF_MULTIPLY_ADD(u2, u, r);                                                                                               \
        PF_MULTIPLY_ADD(v2, v, r);                                                                                               \
        PF_MULTIPLY_ADD(u3, u, s);                                                                                               \
        PF_MULTIPLY_ADD(v3, v, s);                                                                                               \
        PF_KEEP_LOADS();                                                                                                         \
    } while (0)

static inline void pf_packed_dot(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t count, int32_t *sums) {
    const uint8_t *w0 = w, *w1 = w + stride, *const end = w + count;
    uint32_t u0 = a[0], u1 = a[1], u2 = a[2], u3 = a[3], v0 = u0, v1 = u1, v2 = u2, v3 = u3;
    a += 4;
    do {
        PF_STEP(0);
        PF_STEP(1);
        PF_STEP(2);
        PF_STEP(3);
        w0 += 4;
        w1 += 4;
        a += 16;
    } while (w0 != end);
    pf_add_unpacked(u0, u1, sums);
    pf_add_unpacked(u2, u3, sums + 3);
    pf_add_unpacked(v0, v1, sums + 6);
    pf_add_unpacked(v2, v3, sums + 9);
}

#endif
