/* One row of weights with six packed rows, for ARMv7-M without DSP: 6 instructions for six products. */
#ifndef PF_ARMV7M_PACKED_DOT_H
#define PF_ARMV7M_PACKED_DOT_H

#include "picoformer/packed_sums.h"

#define PF_STEP                                                                                                                  \
    " ldrb r12, [%[w]], #1\n"                                                                                                    \
    " ldmia %[a]!, {r3-r6}\n"                                                                                                    \
    " mla %[p], r3, r12, %[p]\n"                                                                                                 \
    " mla %[q], r4, r12, %[q]\n"                                                                                                 \
    " mla %[r], r5, r12, %[r]\n"                                                                                                 \
    " mla %[s], r6, r12, %[s]\n"

static inline void pf_packed_dot(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t count, int32_t *sums) {
    (void)stride;
    const uint8_t *const end = w + count;
    uint32_t p = a[0], q = a[1], r = a[2], s = a[3];
    a += 4;
    /* In C: for (; w != end; w++, a += 4) { p += *w * a[0]; q += *w * a[1]; r += *w * a[2]; s += *w * a[3]; } */
    __asm__ volatile("1:\n" PF_STEP PF_STEP PF_STEP PF_STEP PF_STEP PF_STEP PF_STEP PF_STEP " cmp %[w], %[end]\n"
                     " bne 1b\n"
                     : [w] "+r"(w), [a] "+r"(a), [p] "+r"(p), [q] "+r"(q), [r] "+r"(r), [s] "+r"(s)
                     : [end] "r"(end)
                     : "r3", "r4", "r5", "r6", "r12", "cc", "memory");
    pf_add_unpacked(p, q, sums);
    pf_add_unpacked(r, s, sums + 3);
}

#endif
