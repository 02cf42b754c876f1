/* Attention with a bias of distances, as T5 has it; the conventions of ops.h hold. A model that has such a step includes it. */
#ifndef PICOFORMER_OPS_RELATIVE_H
#define PICOFORMER_OPS_RELATIVE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* softmax(q k^T + bias) v of all heads; q: rows x heads*head_size, keys: positions x heads*head_size, values: positions x
 * heads*value_size, y: rows x heads*value_size. With `causal` row i stands at number + i and sees the keys up to its own place,
 * and rows without a place among the positions are PF_ERROR_INDEX; else it stands at i and sees the first `number` keys, kept
 * inside 0 .. positions; without any y is 0. scratch: `positions` words and head_size half words. y == q is allowed where
 * value_size == head_size. */
typedef struct pf_relative_attention {
    const uint16_t *table;  /* 1024 numerators */
    const uint8_t *buckets; /* of the distances (key less query) -reach .. reach, with `causal` .. 0 */
    const int32_t *bias;    /* buckets x heads, in steps of a score */
    int32_t heads, head_size, value_size;
    int32_t positions;
    int32_t reach, causal;
    int32_t query_drop, key_drop; /* low bits that queries and keys lose so that a score fits 32 bits */
    int32_t score_multiplier, score_shift;
    int32_t value_shift; /* low bits that a sum of values loses so that it fits 32 bits */
    int32_t value_mantissa, value_exponent;
} pf_relative_attention;
int pf_relative_attention_s16(const pf_relative_attention *p, const int16_t *q, const int16_t *keys, const int16_t *values,
                              int16_t *y, int32_t number, int32_t rows, void *scratch);

typedef struct pf_relative_attention_f32_params {
    const uint8_t *buckets;
    const float *bias;
    float scale;
    int32_t heads, head_size, value_size, positions, reach, causal;
} pf_relative_attention_f32_params;
/* scratch: `positions` floats; y != q */
int pf_relative_attention_f32(const pf_relative_attention_f32_params *p, const float *q, const float *keys, const float *values,
                              float *y, int32_t number, int32_t rows, float *scratch);

#ifdef __cplusplus
}
#endif

#endif
