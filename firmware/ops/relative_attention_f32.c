/* Relative attention on floats. */
#include "float_math.h"
#include "relative_attention.h"

int pf_relative_attention_f32(const pf_relative_attention_f32_params *p, const float *q, const float *keys, const float *values,
                              float *y, int32_t number, int32_t rows, float *scratch) {
    const int32_t size = p->head_size;
    if (!pf_has_places(p->causal, p->positions, number, rows)) {
        return PF_ERROR_INDEX;
    }
    for (int32_t r = 0; r < rows; r++) {
        const int32_t place = p->causal ? number + r : r;
        const int32_t count = pf_keys_seen(p->causal, p->positions, number, place);
        for (int32_t h = 0; h < p->heads; h++, q += size) {
            float top = 0.0f, total = 0.0f;
            for (int32_t j = 0; j < count; j++) {
                const float *key = keys + (j * p->heads + h) * size;
                float score = 0.0f;
                for (int32_t d = 0; d < size; d++) {
                    score += q[d] * key[d];
                }
                score = score * p->scale + p->bias[p->buckets[pf_distance_index(j - place, p->reach)] * p->heads + h];
                scratch[j] = score;
                top = j == 0 || score > top ? score : top;
            }
            for (int32_t j = 0; j < count; j++) {
                scratch[j] = pf_exp_f32(scratch[j] - top);
                total += scratch[j];
            }
            for (int32_t e = 0; e < p->value_size; e++) {
                const float *value = values + h * p->value_size + e;
                float sum = 0.0f;
                for (int32_t j = 0; j < count; j++, value += p->heads * p->value_size) {
                    sum += scratch[j] * *value;
                }
                *y++ = count > 0 ? sum / total : 0.0f;
            }
        }
    }
    return PF_OK;
}
