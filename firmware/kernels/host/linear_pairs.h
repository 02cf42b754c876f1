/* A linear layer on the host: two rows of x, widened to int16, with four rows of a weight that is stored so. */
#ifndef PF_HOST_LINEAR_PAIRS_H
#define PF_HOST_LINEAR_PAIRS_H

#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

#include "dots.h"

#define PF_OUTPUTS 64 /* at a time; a multiple of four */

/* Outputs from..from + count - 1 of one row, in loops that are vectorized: the usual shift, and no activation. */
#define PF_DEFINE_FINISH(OUT)                                                                                                    \
    static inline void pf_finish_##OUT(const pf_linear *p, int32_t *restrict sums, PF_TYPE_##OUT *restrict y, int32_t from,      \
                                       int32_t count) {                                                                          \
        const int32_t shift = p->shift, zero_point = p->zero_point;                                                              \
        const int32_t *restrict bias = p->bias + from;                                                                           \
        const uint16_t *restrict factor = p->factor + from;                                                                      \
        if (shift == 32) {                                                                                                       \
            for (int32_t i = 0; i < count; i++) {                                                                                \
                sums[i] = zero_point + pf_rounded_high(sums[i] + bias[i], pf_multiplier(factor[i]));                             \
            }                                                                                                                    \
        } else {                                                                                                                 \
            for (int32_t i = 0; i < count; i++) {                                                                                \
                sums[i] = zero_point + pf_rescale(sums[i] + bias[i], pf_multiplier(factor[i]), shift);                           \
            }                                                                                                                    \
        }                                                                                                                        \
        if (p->entries == 0) {                                                                                                   \
            for (int32_t i = 0; i < count; i++) {                                                                                \
                y[i] = PF_SATURATE(OUT, sums[i]);                                                                                \
            }                                                                                                                    \
            return;                                                                                                              \
        }                                                                                                                        \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            y[i] = pf_linear_##OUT(p->table, p->entries, y[i], sums[i]);                                                         \
        }                                                                                                                        \
    }

/* The weight has zero rows up to a multiple of four. */
#define PF_DEFINE_LINEAR(IN, OUT)                                                                                                \
    PF_DEFINE_FINISH(OUT)                                                                                                        \
    void pf_linear_##IN##_##OUT(const pf_linear *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {      \
        const int32_t n = p->n, k = p->k, length = pf_lanes(k);                                                                  \
        int16_t *const pair = scratch;                                                                                           \
        for (int32_t r = 0; r < rows; r += 2, x += 2 * k, y += 2 * n) {                                                          \
            const int32_t second = r + 1 < rows ? 1 : 0;                                                                         \
            const int16_t *w = (const int16_t *)(const void *)p->weight;                                                         \
            pf_widen_##IN(x, k, pair);                                                                                           \
            pf_widen_##IN(x + second * k, k, pair + length);                                                                     \
            for (int32_t from = 0; from < n; from += PF_OUTPUTS) {                                                               \
                const int32_t count = n - from < PF_OUTPUTS ? n - from : PF_OUTPUTS;                                             \
                int32_t sums[2][PF_OUTPUTS];                                                                                     \
                for (int32_t i = 0; i < count; i += 4, w += 4 * length) {                                                        \
                    pf_dots(pair, w, length, sums[0] + i, sums[1] + i);                                                          \
                }                                                                                                                \
                for (int32_t s = 0; s <= second; s++) {                                                                          \
                    pf_finish_##OUT(p, sums[s], y + s * n + from, from, count);                                                  \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
