/* One head of an attention on int16 for SMLALD: the scores of two keys at a time, then two columns of the values.
 *
 * The numerators replace the scores, two to a word, so that the word is one side of the second product. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* Two int16 of any alignment as a word. */
static inline uint32_t load_two(const int16_t *x) {
    uint32_t word;
    __builtin_memcpy(&word, x, 4);
    return word;
}

/* sum + low half of a * low half of b + high half of a * high half of b */
static inline int64_t multiply_two(int64_t sum, uint32_t a, uint32_t b) {
    __asm__("smlald %Q0, %R0, %1, %2" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* low halves of a and b in `low`, high halves in the result */
static inline uint32_t unzip(uint32_t a, uint32_t b, uint32_t *low) {
    uint32_t high;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(*low) : "r"(a), "r"(b));
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(high) : "r"(b), "r"(a));
    return high;
}

/* Scores of `keys` keys; returns the largest. */
static int32_t find_scores(const pf_attention_head *head, const int16_t *q, const int16_t *k, int32_t *scores, int32_t keys) {
    const int32_t size = head->head_size, stride = head->key_stride, drop = head->score_drop;
    int32_t top = INT32_MIN;
    for (int32_t j = 0; j < keys; j += 2, k += 2 * stride) {
        const int16_t *second = j + 1 < keys ? k + stride : k;
        int64_t sum0 = 0, sum1 = 0;
        int32_t i = 0;
        for (; i + 4 <= size; i += 4) {
            const uint32_t low = load_two(q + i), high = load_two(q + i + 2);
            sum0 = multiply_two(sum0, low, load_two(k + i));
            sum1 = multiply_two(sum1, low, load_two(second + i));
            sum0 = multiply_two(sum0, high, load_two(k + i + 2));
            sum1 = multiply_two(sum1, high, load_two(second + i + 2));
        }
        for (; i < size; i++) {
            sum0 += q[i] * k[i];
            sum1 += q[i] * second[i];
        }
        const int32_t score0 = (int32_t)(sum0 >> drop), score1 = (int32_t)(sum1 >> drop);
        top = score0 > top ? score0 : top;
        top = score1 > top ? score1 : top;
        scores[j] = score0;
        if (j + 1 < keys) {
            scores[j + 1] = score1;
        }
    }
    return top;
}

/* Scores to numerators, two to a word from the start of the same place, zero behind an odd last one; returns their sum. */
static uint32_t find_numerators(const pf_attention_head *head, int32_t *scores, int32_t keys, int32_t top) {
    const uint16_t *table = head->table;
    const uint32_t multiplier = (uint32_t)head->score_multiplier;
    const int32_t shift = head->score_shift;
    uint32_t total = 0;
    for (int32_t j = 0; j < keys; j += 2) {
        const uint32_t first = pf_numerator(table, (uint32_t)top - (uint32_t)scores[j], multiplier, shift);
        uint32_t second = 0;
        if (j + 1 < keys) {
            second = pf_numerator(table, (uint32_t)top - (uint32_t)scores[j + 1], multiplier, shift);
        }
        total += first + second;
        scores[j / 2] = (int32_t)(first | second << 16);
    }
    return total;
}

/* Sums of `keys` numerators times two columns of the values; `v` has both, but for `single`, where one is read twice. */
static inline void sum_columns(const int32_t *p, const int16_t *v, int32_t single, int32_t stride, int32_t keys,
                               int64_t sums[2]) {
    int64_t sum0 = 0, sum1 = 0;
    if (single) {
        for (int32_t j = 0; j < keys; j++, v += stride) {
            sum0 += (int64_t)((uint32_t)p[j / 2] >> (16 * (j & 1)) & 0xFFFFu) * *v;
        }
    } else {
        int32_t j = 0;
        for (; j + 2 <= keys; j += 2, v += 2 * stride) {
            uint32_t low;
            const uint32_t high = unzip(load_two(v), load_two(v + stride), &low);
            const uint32_t weights = (uint32_t)*p++;
            sum0 = multiply_two(sum0, weights, low);
            sum1 = multiply_two(sum1, weights, high);
        }
        if (j < keys) {
            sum0 += *p * v[0];
            sum1 += *p * v[1];
        }
    }
    sums[0] = sum0;
    sums[1] = sum1;
}

#define DEFINE_HEAD(OUT)                                                                                                         \
    void pf_attention_head_s16_##OUT(const pf_attention_head *head, const int16_t *q, const int16_t *k, const int16_t *v,        \
                                     PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                        \
        const int32_t size = head->value_size;                                                                                   \
        for (int32_t i = 0; i < queries; i++, q += head->query_stride, y += head->output_stride) {                               \
            const int32_t count = keys - head->first_keys > i ? head->first_keys + i : keys;                                     \
            const int32_t top = find_scores(head, q, k, scratch, count);                                                         \
            const uint32_t total = find_numerators(head, scratch, count, top);                                                   \
            const pf_factor f = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                         \
            for (int32_t d = 0; d < size; d += 2) {                                                                              \
                int64_t sums[2];                                                                                                 \
                sum_columns(scratch, v + d, d + 1 == size, head->value_stride, count, sums);                                     \
                for (int32_t c = 0; c < 2 && d + c < size; c++) {                                                                \
                    const int32_t value = pf_rescale_wide(sums[c], f.multiplier, f.shift);                                       \
                    y[d + c] = PF_SATURATE(OUT, value);                                                                          \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
