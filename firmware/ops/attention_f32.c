/* Attention in float: one query and one head at a time, the scores of one row in scratch. */
#include <string.h>

#include "float_dot.h"
#include "float_math.h"
#include "picoformer/ops.h"

/* Scores of one query, then e^(score - maximum) in place; returns their sum. */
static float numerators(const pf_attention_f32_params *p, const float *q, const float *k, float *scores, int32_t keys) {
    const int32_t stride = p->kv_heads * p->head_size;
    float top = 0.0f, total = 0.0f;
    for (int32_t j = 0; j < keys; j++, k += stride) {
        scores[j] = pf_dot_f32(q, k, p->head_size) * p->scale;
        top = j == 0 || scores[j] > top ? scores[j] : top;
    }
    for (int32_t j = 0; j < keys; j++) {
        scores[j] = pf_exp_f32(scores[j] - top);
        total += scores[j];
    }
    return total;
}

void pf_attention_f32(const pf_attention_f32_params *p, const float *q, const float *k, const float *v, float *y, int32_t queries,
                      int32_t keys, int32_t valid, float *scratch) {
    const int32_t stride = p->kv_heads * p->value_size, width = p->heads * p->value_size, group = p->heads / p->kv_heads;
    for (int32_t i = 0; i < queries; i++) {
        const int32_t seen = p->causal && keys - queries + i + 1 < valid ? keys - queries + i + 1 : valid;
        const int32_t taking_part = seen < keys ? seen : keys;
        if (taking_part <= 0) {
            memset(y, 0, (size_t)width * sizeof *y);
            q += p->heads * p->head_size;
            y += width;
            continue;
        }
        for (int32_t h = 0; h < p->heads; h++, q += p->head_size) {
            const float total = numerators(p, q, k + h / group * p->head_size, scratch, taking_part);
            for (int32_t d = 0; d < p->value_size; d++) {
                const float *value = v + h / group * p->value_size + d;
                float sum = 0.0f;
                for (int32_t j = 0; j < taking_part; j++, value += stride) {
                    sum += scratch[j] * *value;
                }
                *y++ = sum / total;
            }
        }
    }
}
