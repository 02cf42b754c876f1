/* Cached attention for any types: row by row, and in it the heads that share keys and values, which are a primitive. */
#ifndef PF_CACHED_ATTENTION_ROWS_H
#define PF_CACHED_ATTENTION_ROWS_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define PF_DEFINE_CACHED_ATTENTION(K, V, OUT)                                                                                    \
    int pf_cached_attention_##K##_##V##_##OUT(const pf_cached_attention *p, const int16_t *q, const PF_TYPE_##K *keys,           \
                                              const PF_TYPE_##V *values, PF_TYPE_##OUT *y, int32_t position, int32_t rows,       \
                                              void *scratch) {                                                                   \
        const int32_t group = p->heads / p->kv_heads;                                                                            \
        if (position < 0 || rows > p->positions || position > p->positions - rows) {                                             \
            return PF_ERROR_INDEX;                                                                                               \
        }                                                                                                                        \
        for (int32_t r = 0; r < rows; r++) {                                                                                     \
            for (int32_t g = 0; g < p->kv_heads; g++, q += group * p->head_size, y += group * p->value_size) {                   \
                pf_cached_attention_group_##K##_##V##_##OUT(p, q, keys + g * p->head_size,                                       \
                                                            values + g * p->value_size * p->positions, y, g * group,             \
                                                            position + r + 1, scratch);                                          \
            }                                                                                                                    \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

#endif
