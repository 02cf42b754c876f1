/* A decode step in float: rotations, caches, the attention to them. */
#include <string.h>

#include "float_dot.h"
#include "float_math.h"
#include "picoformer/ops.h"

int pf_rope_f32(const pf_rope_f32_params *p, const float *x, float *y, int32_t position, int32_t rows) {
    const int32_t rotary = p->rotary, step = p->interleaved ? 2 : 1, apart = p->interleaved ? 1 : rotary / 2;
    if (position < 0 || rows > p->positions || position > p->positions - rows) {
        return PF_ERROR_INDEX;
    }
    const float *row = p->rotations + position * rotary;
    for (int32_t r = 0; r < rows; r++, row += rotary) {
        for (int32_t h = 0; h < p->heads; h++, x += p->head_size, y += p->head_size) {
            for (int32_t i = 0, at = 0; i < rotary; i += 2, at += step) {
                const float x0 = x[at], x1 = x[at + apart];
                y[at] = x0 * row[i] - x1 * row[i + 1];
                y[at + apart] = x0 * row[i + 1] + x1 * row[i];
            }
            for (int32_t i = rotary; i < p->head_size; i++) {
                y[i] = x[i];
            }
        }
    }
    return PF_OK;
}

int pf_kv_append_f32(const pf_kv_append_f32_params *p, const float *rows, float *cache, int32_t position, int32_t count) {
    const int32_t step = p->transposed ? p->positions : 1, next = p->transposed ? 1 : p->width;
    if (position < 0 || count < 0 || count > p->block || count > p->positions || position > p->positions - count) {
        return PF_ERROR_INDEX;
    }
    cache += position * next;
    for (int32_t r = 0; r < count; r++, rows += p->width, cache += next) {
        for (int32_t i = 0; i < p->width; i++) {
            cache[i * step] = rows[i];
        }
    }
    return PF_OK;
}

/* The nearest bfloat16, ties to even. */
static float to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Scores of one query, then e^(score - maximum) in place; returns their sum. */
static float numerators(const pf_cached_attention_f32_params *p, const float *q, const float *keys, float slope, float *scores,
                        int32_t count) {
    float top = 0.0f, total = 0.0f;
    for (int32_t j = 0; j < count; j++, keys += p->kv_heads * p->head_size) {
        const float bias = slope * (float)j;
        scores[j] = pf_dot_f32(q, keys, p->head_size) * p->scale + (p->bfloat16 ? to_bfloat16(bias) * p->scale : bias);
        top = j == 0 || scores[j] > top ? scores[j] : top;
    }
    for (int32_t j = 0; j < count; j++) {
        scores[j] = pf_exp_f32(scores[j] - top);
        total += scores[j];
    }
    return total;
}

int pf_cached_attention_f32(const pf_cached_attention_f32_params *p, const float *q, const float *keys, const float *values,
                            float *y, int32_t position, int32_t rows, float *scratch) {
    const int32_t group = p->heads / p->kv_heads;
    if (position < 0 || rows > p->positions || position > p->positions - rows) {
        return PF_ERROR_INDEX;
    }
    for (int32_t count = position + 1; count <= position + rows; count++) {
        for (int32_t h = 0; h < p->heads; h++, q += p->head_size) {
            const float slope = p->slopes != 0 ? p->slopes[h] : 0.0f;
            const float total = numerators(p, q, keys + h / group * p->head_size, slope, scratch, count);
            const float *value = values + h / group * p->value_size * p->positions;
            for (int32_t e = 0; e < p->value_size; e++, value += p->positions) {
                *y++ = pf_dot_f32(scratch, value, count) / total;
            }
        }
    }
    return PF_OK;
}
