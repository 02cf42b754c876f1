/* One row of a cached attention in plain C for the heads that share keys and values, for any types of them: the scores, their
 * maximum, the numerators, the weighted mean of the values. */
#ifndef PF_CACHED_ATTENTION_GROUP_H
#define PF_CACHED_ATTENTION_GROUP_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define PF_DEFINE_CACHED_NUMERATORS(K)                                                                                           \
    /* Leaves the numerators of one head in p and returns their sum; q has lost its low bits. */                                 \
    static uint32_t cached_numerators_##K(const pf_cached_attention *a, const int16_t *q, const PF_TYPE_##K *keys, int32_t *p,   \
                                          int32_t count, int32_t slope) {                                                        \
        const int32_t size = a->head_size, stride = a->kv_heads * size;                                                          \
        int32_t top = INT32_MIN;                                                                                                 \
        for (int32_t j = 0; j < count; j++, keys += stride) {                                                                    \
            int32_t score = 0;                                                                                                   \
            for (int32_t d = 0; d < size; d++) {                                                                                 \
                score += q[d] * keys[d];                                                                                         \
            }                                                                                                                    \
            score += (int32_t)pf_rounding_shift((int64_t)slope * j, 8);                                                          \
            p[j] = score;                                                                                                        \
            top = score > top ? score : top;                                                                                     \
        }                                                                                                                        \
        const uint16_t *table = a->table;                                                                                        \
        const uint32_t multiplier = (uint32_t)a->score_multiplier;                                                               \
        const int32_t shift = a->score_shift;                                                                                    \
        uint32_t total = 0;                                                                                                      \
        for (int32_t j = 0; j < count; j++) {                                                                                    \
            const uint32_t numerator = pf_numerator(table, (uint32_t)top - (uint32_t)p[j], multiplier, shift);                   \
            p[j] = (int32_t)numerator;                                                                                           \
            total += numerator;                                                                                                  \
        }                                                                                                                        \
        return total;                                                                                                            \
    }

#define PF_DEFINE_CACHED_GROUP(K, V, OUT)                                                                                        \
    void pf_cached_attention_group_##K##_##V##_##OUT(const pf_cached_attention *a, const int16_t *q, const PF_TYPE_##K *keys,    \
                                                     const PF_TYPE_##V *values, PF_TYPE_##OUT *y, int32_t head, int32_t count,   \
                                                     void *scratch) {                                                            \
        const int32_t size = a->head_size, last = head + a->heads / a->kv_heads;                                                 \
        int32_t *const p = scratch;                                                                                              \
        int16_t *const narrow = (int16_t *)(p + a->positions);                                                                   \
        for (; head < last; head++, q += size) {                                                                                 \
            for (int32_t d = 0; d < size; d++) {                                                                                 \
                narrow[d] = (int16_t)pf_narrow(q[d], a->query_drop);                                                             \
            }                                                                                                                    \
            const int32_t slope = a->slope_multiplier != 0 ? a->slope_multiplier[head] : 0;                                      \
            const uint32_t total = cached_numerators_##K(a, narrow, keys, p, count, slope);                                      \
            const pf_factor f = pf_scaled_reciprocal(a->value_mantissa, a->value_exponent, total);                               \
            const PF_TYPE_##V *row = values;                                                                                     \
            for (int32_t e = 0; e < a->value_size; e++, row += a->positions) {                                                   \
                int64_t sum = 0;                                                                                                 \
                for (int32_t j = 0; j < count; j++) {                                                                            \
                    sum += p[j] * row[j];                                                                                        \
                }                                                                                                                \
                sum = a->value_shift != 0 ? pf_rounding_shift(sum, a->value_shift) : sum;                                        \
                const int64_t value = pf_rounding_shift(sum * f.multiplier, f.shift);                                            \
                *y++ = PF_SATURATE(OUT, value);                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
