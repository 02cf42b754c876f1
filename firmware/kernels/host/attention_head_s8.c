/* One head of an attention on int8 for the host: two queries at a time with four keys, then with four columns of the values.
 *
 * scratch, all of int16 but the scores: the keys, the values transposed, two queries, two rows of numerators, two of scores. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "dots.h"

PF_DEFINE_WIDEN(s8)

/* `values` columns of v, each filled up with zeros. */
static void transpose(const int8_t *restrict v, int32_t stride, int32_t keys, int32_t values, int16_t *restrict to) {
    for (int32_t d = 0; d < values; d++, to += pf_lanes(keys)) {
        for (int32_t j = 0; j < keys; j++) {
            to[j] = v[j * stride + d];
        }
        for (int32_t j = keys; j < pf_lanes(keys); j++) {
            to[j] = 0;
        }
    }
}

/* Numerators of the first `count` scores, zeros up to `length`; returns their sum. Entries of the table are found first, in a
 * loop that is vectorized. */
static uint32_t numerators(const pf_attention_head *head, int32_t *restrict scores, int32_t count, int16_t *restrict p,
                           int32_t length) {
    const uint32_t multiplier = (uint32_t)head->score_multiplier;
    const int32_t shift = head->score_shift; /* 1..32 */
    const uint64_t half = (uint64_t)1 << (shift - 1);
    int32_t top = scores[0];
    uint32_t total = 0;
    for (int32_t j = 1; j < count; j++) {
        top = scores[j] > top ? scores[j] : top;
    }
    for (int32_t j = 0; j < count; j++) {
        const uint64_t product = (uint64_t)(uint32_t)(top - scores[j]) * multiplier;
        const uint64_t index = (product + half) >> shift;
        scores[j] = (int32_t)(index < PF_EXP_ENTRIES ? index : PF_EXP_ENTRIES - 1u);
    }
    for (int32_t j = 0; j < count; j++) {
        const uint32_t numerator = head->table[scores[j]];
        p[j] = (int16_t)numerator;
        total += numerator;
    }
    for (int32_t j = count; j < length; j++) {
        p[j] = 0;
    }
    return total;
}

#define DEFINE_HEAD(OUT)                                                                                                         \
    void pf_attention_head_s8_##OUT(const pf_attention_head *head, const int8_t *q, const int8_t *k, const int8_t *v,            \
                                    PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                         \
        const int32_t size = pf_lanes(head->head_size), length = pf_lanes(keys), values = head->value_size;                      \
        int16_t *const k_rows = (int16_t *)scratch, *const v_columns = k_rows + length * size;                                   \
        int16_t *const pair = v_columns + (values + 3) / 4 * 4 * length, *const p = pair + 2 * size;                             \
        int32_t *const scores = (int32_t *)(void *)(p + 2 * length);                                                             \
        for (int32_t j = 0; j < keys && !head->same_keys; j++) {                                                                 \
            pf_widen_s8(k + j * head->key_stride, head->head_size, k_rows + j * size);                                           \
        }                                                                                                                        \
        if (!head->same_keys) {                                                                                                  \
            transpose(v, head->value_stride, keys, values, v_columns);                                                           \
        }                                                                                                                        \
        for (int32_t i = 0; i < queries; i += 2, q += 2 * head->query_stride, y += 2 * head->output_stride) {                    \
            const int32_t rows = queries - i < 2 ? 1 : 2;                                                                        \
            int32_t sums[8];                                                                                                     \
            pf_factor factors[2];                                                                                                \
            pf_widen_s8(q, head->head_size, pair);                                                                               \
            pf_widen_s8(q + (rows - 1) * head->query_stride, head->head_size, pair + size);                                      \
            for (int32_t j = 0; j < keys; j += 4) {                                                                              \
                pf_dots(pair, k_rows + j * size, size, scores + j, scores + length + j);                                         \
            }                                                                                                                    \
            for (int32_t r = 0; r < rows; r++) {                                                                                 \
                const int32_t count = keys - head->first_keys > i + r ? head->first_keys + i + r : keys;                         \
                const uint32_t total = numerators(head, scores + r * length, count, p + r * length, length);                     \
                factors[r] = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                            \
            }                                                                                                                    \
            for (int32_t d = 0; d < values; d += 4) {                                                                            \
                pf_dots(p, v_columns + d * length, length, sums, sums + 4);                                                      \
                for (int32_t r = 0; r < rows; r++) {                                                                             \
                    for (int32_t c = 0; c < 4 && d + c < values; c++) {                                                          \
                        const int32_t value = pf_rescale_far(sums[4 * r + c], factors[r].multiplier, factors[r].shift);          \
                        y[r * head->output_stride + d + c] = PF_SATURATE(OUT, value);                                            \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
