/* Attention: the heads one after the other; what one head does is a primitive. */
#include <string.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define DEFINE_ATTENTION(OUT)                                                                                                    \
    void pf_attention_s8_##OUT(const pf_attention *p, const int8_t *q, const int8_t *k, const int8_t *v, PF_TYPE_##OUT *y,       \
                               int32_t queries, int32_t keys, int32_t valid, int32_t *scratch) {                                 \
        const int32_t width = p->heads * p->value_size;                                                                          \
        const int32_t taking_part = valid < keys ? valid : keys;                                                                 \
        if (taking_part <= 0) {                                                                                                  \
            memset(y, 0, (size_t)queries *(size_t)width * sizeof *y);                                                            \
            return;                                                                                                              \
        }                                                                                                                        \
        pf_attention_head head = {                                                                                               \
            .table = p->table,                                                                                                   \
            .score_shift = p->score_shift,                                                                                       \
            .head_size = p->head_size,                                                                                           \
            .value_size = p->value_size,                                                                                         \
            .key_stride = p->heads * p->head_size,                                                                               \
            .value_stride = width,                                                                                               \
        };                                                                                                                       \
        for (int32_t h = 0; h < p->heads; h++) {                                                                                 \
            head.score_multiplier = p->score_multiplier[h];                                                                      \
            head.value_mantissa = p->value_mantissa[h];                                                                          \
            head.value_exponent = p->value_exponent[h];                                                                          \
            pf_attention_head_s8_##OUT(&head, q, k, v, y, queries, taking_part, scratch);                                        \
            q += p->head_size;                                                                                                   \
            k += p->head_size;                                                                                                   \
            v += p->value_size;                                                                                                  \
            y += p->value_size;                                                                                                  \
        }                                                                                                                        \
    }

DEFINE_ATTENTION(s8)
DEFINE_ATTENTION(s16)
