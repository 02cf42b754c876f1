/* A linear layer on the host: two rows of x, widened to int16, with four rows of a weight that is stored so. */
#ifndef PF_HOST_LINEAR_PAIRS_H
#define PF_HOST_LINEAR_PAIRS_H

#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

#include "dots.h"

/* The weight has zero rows up to a multiple of four. */
#define PF_DEFINE_LINEAR(IN, OUT)                                                                                                \
    void pf_linear_##IN##_##OUT(const pf_linear *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {      \
        const int32_t n = p->n, k = p->k, length = pf_lanes(k);                                                                  \
        int16_t *const pair = scratch;                                                                                           \
        for (int32_t r = 0; r < rows; r += 2, x += 2 * k, y += 2 * n) {                                                          \
            const int32_t count = rows - r < 2 ? 1 : 2;                                                                          \
            const int16_t *w = (const int16_t *)(const void *)p->weight;                                                         \
            pf_widen_##IN(x, k, pair);                                                                                           \
            pf_widen_##IN(x + (count - 1) * k, k, pair + length);                                                                \
            for (int32_t i = 0; i < n; i += 4, w += 4 * length) {                                                                \
                int32_t sums[8];                                                                                                 \
                pf_dots(pair, w, length, sums);                                                                                  \
                for (int32_t c = 0; c < 4 && i + c < n; c++) {                                                                   \
                    for (int32_t s = 0; s < count; s++) {                                                                        \
                        const int32_t sum = sums[4 * s + c] + p->bias[i + c];                                                    \
                        const int32_t value = p->zero_point + pf_rescale(sum, p->multiplier[i + c], p->shift);                   \
                        y[s * n + i + c] = pf_linear_##OUT(p->table, p->entries, value);                                         \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
