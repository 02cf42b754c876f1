/* A linear layer with int4 weights in plain C: each row of the weight becomes int8 in the scratch and serves all rows of x. */
#ifndef PF_LINEAR_S4_ROWS_H
#define PF_LINEAR_S4_ROWS_H

#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

/* k weights of one row, each times the multiplier of its block of 32 (NULL: 1). */
static inline void pf_unpack_s4(const uint8_t *packed, const uint8_t *multiplier, int32_t k, int8_t *out) {
    for (int32_t start = 0; start < k; start += 32) {
        const int32_t m = multiplier != 0 ? multiplier[start / 32] : 1;
        const int32_t count = k - start < 32 ? k - start : 32;
        for (int32_t i = 0; i < count; i += 2, packed++) {
            *out++ = (int8_t)((((*packed & 15) ^ 8) - 8) * m);
            if (i + 1 < count) {
                *out++ = (int8_t)((((*packed >> 4) ^ 8) - 8) * m);
            }
        }
    }
}

/* ACC: the type of the sums; RESCALE: what brings one to the grid of the output. Four rows of x share each load of a weight. */
#define PF_DEFINE_LINEAR_S4(SYMBOL, IN, OUT, ACC, RESCALE)                                                                       \
    void SYMBOL(const pf_linear_s4 *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                   \
        const int32_t n = p->n, k = p->k, shift = p->shift, zero_point = p->zero_point;                                          \
        int8_t *const w = scratch;                                                                                               \
        for (int32_t i = 0; i < n; i++) {                                                                                        \
            const uint8_t *m = p->block_multiplier != 0 ? p->block_multiplier + i * ((k + 31) / 32) : 0;                         \
            pf_unpack_s4(p->weight + i * ((k + 1) / 2), m, k, w);                                                                \
            const int32_t bias = p->bias[i], multiplier = pf_multiplier(p->factor[i]);                                           \
            const PF_TYPE_##IN *x0 = x;                                                                                          \
            PF_TYPE_##OUT *to = y + i;                                                                                           \
            int32_t r = 0;                                                                                                       \
            for (; r + 4 <= rows; r += 4, x0 += 4 * k) {                                                                         \
                const PF_TYPE_##IN *x1 = x0 + k, *x2 = x1 + k, *x3 = x2 + k;                                                     \
                ACC a0 = bias, a1 = bias, a2 = bias, a3 = bias;                                                                  \
                for (int32_t j = 0; j < k; j++) {                                                                                \
                    const ACC v = w[j];                                                                                          \
                    a0 += v * x0[j];                                                                                             \
                    a1 += v * x1[j];                                                                                             \
                    a2 += v * x2[j];                                                                                             \
                    a3 += v * x3[j];                                                                                             \
                }                                                                                                                \
                const ACC sums[4] = {a0, a1, a2, a3};                                                                            \
                for (int32_t c = 0; c < 4; c++, to += n) {                                                                       \
                    const int32_t value = zero_point + RESCALE(sums[c], multiplier, shift);                                      \
                    *to = pf_linear_##OUT(p->table, p->entries, *to, value);                                                     \
                }                                                                                                                \
            }                                                                                                                    \
            for (; r < rows; r++, x0 += k, to += n) {                                                                            \
                ACC sum = bias;                                                                                                  \
                for (int32_t j = 0; j < k; j++) {                                                                                \
                    sum += w[j] * (ACC)x0[j];                                                                                    \
                }                                                                                                                \
                const int32_t value = zero_point + RESCALE(sum, multiplier, shift);                                              \
                *to = pf_linear_##OUT(p->table, p->entries, *to, value);                                                         \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
