/* One head of an attention: per query the scores, their maximum, the numerators, the weighted mean of the values. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

static int32_t dot(const int8_t *a, const int8_t *b, int32_t count) {
    int32_t sum = 0, i = 0;
    for (; i + 4 <= count; i += 4) {
        sum += a[i] * b[i] + a[i + 1] * b[i + 1] + a[i + 2] * b[i + 2] + a[i + 3] * b[i + 3];
    }
    for (; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* Leaves the numerators in `p` and returns their sum. */
static uint32_t numerators(const pf_attention_head *head, const int8_t *q, const int8_t *k, int32_t *p, int32_t keys) {
    int32_t top = INT32_MIN;
    for (int32_t j = 0; j < keys; j++, k += head->key_stride) {
        p[j] = dot(q, k, head->head_size);
        top = p[j] > top ? p[j] : top;
    }
    const uint16_t *table = head->table;
    const uint32_t multiplier = (uint32_t)head->score_multiplier;
    const int32_t shift = head->score_shift;
    uint32_t total = 0;
    for (int32_t j = 0; j < keys; j++) {
        const uint32_t numerator = pf_numerator(table, (uint32_t)top - (uint32_t)p[j], multiplier, shift);
        p[j] = (int32_t)numerator;
        total += numerator;
    }
    return total;
}

/* Four elements of the value rows at a time; the last group may hold fewer and then reads one element several times. */
#define DEFINE_HEAD(OUT)                                                                                                         \
    void pf_attention_head_s8_##OUT(const pf_attention_head *head, const int8_t *q, const int8_t *k, const int8_t *v,            \
                                    PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                         \
        const int32_t size = head->value_size, stride = head->value_stride;                                                      \
        for (int32_t i = 0; i < queries; i++, q += head->key_stride, y += stride) {                                              \
            const uint32_t total = numerators(head, q, k, scratch, keys);                                                        \
            const pf_factor f = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                         \
            for (int32_t d = 0; d < size; d += 4) {                                                                              \
                const int32_t group = size - d < 4 ? size - d : 4;                                                               \
                const int32_t second = group > 1 ? 1 : 0, third = group > 2 ? 2 : 0, fourth = group > 3 ? 3 : 0;                 \
                const int8_t *row = v + d;                                                                                       \
                int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;                                                                          \
                for (int32_t j = 0; j < keys; j++, row += stride) {                                                              \
                    const int32_t p = scratch[j];                                                                                \
                    a0 += p * row[0];                                                                                            \
                    a1 += p * row[second];                                                                                       \
                    a2 += p * row[third];                                                                                        \
                    a3 += p * row[fourth];                                                                                       \
                }                                                                                                                \
                const int32_t sums[4] = {a0, a1, a2, a3};                                                                        \
                for (int32_t c = 0; c < group; c++) {                                                                            \
                    const int64_t value = pf_rounding_shift((int64_t)sums[c] * f.multiplier, f.shift);                           \
                    y[d + c] = PF_SATURATE(OUT, value);                                                                          \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
