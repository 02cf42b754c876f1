/* Relative attention on 16-bit integers: row by row and head by head, scores first, then the weighted mean of the values. */
#include "picoformer/fixedpoint.h"
#include "relative_attention.h"

/* Leaves the numerators of one head in `scores` and returns their sum. */
static uint32_t numerators(const pf_relative_attention *p, const int16_t *q, const int16_t *keys, int32_t head, int32_t place,
                           int32_t count, int32_t *scores) {
    const int32_t size = p->head_size, stride = p->heads * size;
    int32_t top = INT32_MIN;
    for (int32_t j = 0; j < count; j++, keys += stride) {
        int32_t score = p->bias[p->buckets[pf_distance_index(j - place, p->reach)] * p->heads + head];
        for (int32_t d = 0; d < size; d++) {
            score += q[d] * (int32_t)pf_narrow(keys[d], p->key_drop);
        }
        scores[j] = score;
        top = score > top ? score : top;
    }
    uint32_t total = 0;
    for (int32_t j = 0; j < count; j++) {
        const uint32_t distance = (uint32_t)top - (uint32_t)scores[j];
        const uint32_t numerator = pf_numerator(p->table, distance, (uint32_t)p->score_multiplier, p->score_shift);
        scores[j] = (int32_t)numerator;
        total += numerator;
    }
    return total > p->table[0] ? total : p->table[0]; /* less only where there is no key */
}

int pf_relative_attention_s16(const pf_relative_attention *p, const int16_t *q, const int16_t *keys, const int16_t *values,
                              int16_t *y, int32_t number, int32_t rows, void *scratch) {
    int32_t *const scores = (int32_t *)scratch;
    int16_t *const narrow = (int16_t *)(scores + p->positions);
    if (!pf_has_places(p->causal, p->positions, number, rows)) {
        return PF_ERROR_INDEX;
    }
    for (int32_t r = 0; r < rows; r++) {
        const int32_t place = p->causal ? number + r : r;
        const int32_t count = pf_keys_seen(p->causal, p->positions, number, place);
        for (int32_t h = 0; h < p->heads; h++, q += p->head_size) {
            for (int32_t d = 0; d < p->head_size; d++) {
                narrow[d] = (int16_t)pf_narrow(q[d], p->query_drop);
            }
            const uint32_t total = numerators(p, narrow, keys + h * p->head_size, h, place, count, scores);
            const pf_factor f = pf_scaled_reciprocal(p->value_mantissa, p->value_exponent, total);
            for (int32_t e = 0; e < p->value_size; e++) {
                const int16_t *value = values + h * p->value_size + e;
                int64_t sum = 0;
                for (int32_t j = 0; j < count; j++, value += p->heads * p->value_size) {
                    sum += scores[j] * *value;
                }
                sum = p->value_shift != 0 ? pf_rounding_shift(sum, p->value_shift) : sum;
                *y++ = PF_SATURATE(s16, pf_rounding_shift(sum * f.multiplier, f.shift));
            }
        }
    }
    return PF_OK;
}
