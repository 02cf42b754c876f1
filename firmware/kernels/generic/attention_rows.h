/* One head of an attention in plain C, for any pair of types: per query the scores, their maximum, the numerators, the weighted
 * mean of the values. */
#ifndef PF_ATTENTION_ROWS_H
#define PF_ATTENTION_ROWS_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* Leaves the numerators in `p` and returns their sum. SCORE: the score of one key, (q, k, size) -> 32 bits. */
#define PF_DEFINE_NUMERATORS(IN, SCORE)                                                                                          \
    static uint32_t numerators_##IN(const pf_attention_head *head, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k, int32_t *p,     \
                                    int32_t keys) {                                                                              \
        int32_t top = INT32_MIN;                                                                                                 \
        for (int32_t j = 0; j < keys; j++, k += head->key_stride) {                                                              \
            p[j] = SCORE(head, q, k);                                                                                            \
            top = p[j] > top ? p[j] : top;                                                                                       \
        }                                                                                                                        \
        const uint16_t *table = head->table;                                                                                     \
        const uint32_t multiplier = (uint32_t)head->score_multiplier;                                                            \
        const int32_t shift = head->score_shift;                                                                                 \
        uint32_t total = 0;                                                                                                      \
        for (int32_t j = 0; j < keys; j++) {                                                                                     \
            const uint32_t numerator = pf_numerator(table, (uint32_t)top - (uint32_t)p[j], multiplier, shift);                   \
            p[j] = (int32_t)numerator;                                                                                           \
            total += numerator;                                                                                                  \
        }                                                                                                                        \
        return total;                                                                                                            \
    }

/* Four elements of the value rows at a time; the last group may hold fewer and then reads one element several times. VALUE: an
 * element of the values as it is summed, (head, v) -> at most 16 bits. */
#define PF_DEFINE_HEAD(IN, OUT, VALUE)                                                                                           \
    void pf_attention_head_##IN##_##OUT(const pf_attention_head *head, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k,             \
                                        const PF_TYPE_##IN *v, PF_TYPE_##OUT *y, int32_t queries, int32_t keys,                  \
                                        int32_t *scratch) {                                                                      \
        const int32_t size = head->value_size, stride = head->value_stride;                                                      \
        for (int32_t i = 0; i < queries; i++, q += head->query_stride, y += head->output_stride) {                               \
            const int32_t count = keys - head->first_keys > i ? head->first_keys + i : keys;                                     \
            const uint32_t total = numerators_##IN(head, q, k, scratch, count);                                                  \
            const pf_factor f = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                         \
            for (int32_t d = 0; d < size; d += 4) {                                                                              \
                const int32_t group = size - d < 4 ? size - d : 4;                                                               \
                const int32_t second = group > 1 ? 1 : 0, third = group > 2 ? 2 : 0, fourth = group > 3 ? 3 : 0;                 \
                const PF_TYPE_##IN *row = v + d;                                                                                 \
                int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;                                                                          \
                for (int32_t j = 0; j < count; j++, row += stride) {                                                             \
                    const int32_t p = scratch[j];                                                                                \
                    a0 += p * VALUE(head, row[0]);                                                                               \
                    a1 += p * VALUE(head, row[second]);                                                                          \
                    a2 += p * VALUE(head, row[third]);                                                                           \
                    a3 += p * VALUE(head, row[fourth]);                                                                          \
                }                                                                                                                \
                const int32_t sums[4] = {a0, a1, a2, a3};                                                                        \
                for (int32_t c = 0; c < group; c++) {                                                                            \
                    const int64_t value = pf_rounding_shift((int64_t)sums[c] * f.multiplier, f.shift);                           \
                    y[d + c] = PF_SATURATE(OUT, value);                                                                          \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
