/* A linear layer in plain C, for any pair of types: four outputs at a time share each load of the input. */
#ifndef PF_LINEAR_ROWS_H
#define PF_LINEAR_ROWS_H

#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

/* PARAMS: the struct of parameters; WEIGHT: the type of a weight; ACC: that of the sums; RESCALE: what brings one to the grid of
 * the output. */
#define PF_DEFINE_LINEAR_OF(SYMBOL, PARAMS, WEIGHT, IN, OUT, ACC, RESCALE)                                                       \
    void SYMBOL(const PARAMS *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                         \
        (void)scratch;                                                                                                           \
        const int32_t n = p->n, k = p->k, shift = p->shift, zero_point = p->zero_point;                                          \
        const int32_t *bias = p->bias;                                                                                           \
        const uint16_t *factor = p->factor;                                                                                      \
        for (int32_t r = 0; r < rows; r++, x += k, y += n) {                                                                     \
            const WEIGHT *w0 = p->weight;                                                                                        \
            int32_t i = 0;                                                                                                       \
            for (; i + 4 <= n; i += 4, w0 += 4 * k) {                                                                            \
                const WEIGHT *w1 = w0 + k, *w2 = w1 + k, *w3 = w2 + k;                                                           \
                ACC a0 = bias[i], a1 = bias[i + 1], a2 = bias[i + 2], a3 = bias[i + 3];                                          \
                for (int32_t j = 0; j < k; j++) {                                                                                \
                    const ACC v = x[j];                                                                                          \
                    a0 += w0[j] * v;                                                                                             \
                    a1 += w1[j] * v;                                                                                             \
                    a2 += w2[j] * v;                                                                                             \
                    a3 += w3[j] * v;                                                                                             \
                }                                                                                                                \
                const ACC sums[4] = {a0, a1, a2, a3};                                                                            \
                for (int32_t c = 0; c < 4; c++) {                                                                                \
                    const int32_t value = zero_point + RESCALE(sums[c], pf_multiplier(factor[i + c]), shift);                    \
                    y[i + c] = pf_linear_##OUT(p->table, p->entries, y[i + c], value);                                           \
                }                                                                                                                \
            }                                                                                                                    \
            for (; i < n; i++, w0 += k) {                                                                                        \
                ACC sum = bias[i];                                                                                               \
                for (int32_t j = 0; j < k; j++) {                                                                                \
                    sum += w0[j] * (ACC)x[j];                                                                                    \
                }                                                                                                                \
                const int32_t value = zero_point + RESCALE(sum, pf_multiplier(factor[i]), shift);                                \
                y[i] = pf_linear_##OUT(p->table, p->entries, y[i], value);                                                       \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#define PF_DEFINE_LINEAR(SYMBOL, IN, OUT, ACC, RESCALE) PF_DEFINE_LINEAR_OF(SYMBOL, pf_linear, int8_t, IN, OUT, ACC, RESCALE)

#endif
