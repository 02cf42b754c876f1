/* Attention for any pair of types: the heads one after the other; what one head does is a primitive. */
#ifndef PF_ATTENTION_HEADS_H
#define PF_ATTENTION_HEADS_H

#include <string.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* Rows without a key, all of them or the first of a causal attention, are zero; then every row has one. */
#define PF_DEFINE_ATTENTION(IN, OUT)                                                                                             \
    void pf_attention_##IN##_##OUT(const pf_attention *p, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k, const PF_TYPE_##IN *v,   \
                                   PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t valid, int32_t *scratch) {           \
        const int32_t group = p->heads / p->kv_heads;                                                                            \
        const int32_t taking_part = valid < keys ? valid : keys;                                                                 \
        int32_t empty = p->causal && queries > keys ? queries - keys : 0;                                                        \
        empty = taking_part <= 0 || empty > queries ? queries : empty;                                                           \
        pf_attention_head head = {                                                                                               \
            .table = p->table,                                                                                                   \
            .score_shift = p->score_shift,                                                                                       \
            .query_drop = p->query_drop,                                                                                         \
            .key_drop = p->key_drop,                                                                                             \
            .value_drop = p->value_drop,                                                                                         \
            .head_size = p->head_size,                                                                                           \
            .value_size = p->value_size,                                                                                         \
            .query_stride = p->heads * p->head_size,                                                                             \
            .key_stride = p->kv_heads * p->head_size,                                                                            \
            .value_stride = p->kv_heads * p->value_size,                                                                         \
            .output_stride = p->heads * p->value_size,                                                                           \
            .first_keys = p->causal ? keys - queries + empty + 1 : keys,                                                         \
        };                                                                                                                       \
        memset(y, 0, (size_t)empty *(size_t)head.output_stride * sizeof *y);                                                     \
        q += empty * head.query_stride;                                                                                          \
        y += empty * head.output_stride;                                                                                         \
        for (int32_t h = 0; h < p->heads && empty < queries; h++, q += p->head_size, y += p->value_size) {                       \
            head.score_multiplier = p->score_multiplier[h];                                                                      \
            head.value_mantissa = p->value_mantissa[h];                                                                          \
            head.value_exponent = p->value_exponent[h];                                                                          \
            head.same_keys = h % group != 0;                                                                                     \
            pf_attention_head_##IN##_##OUT(&head, q, k + h / group * p->head_size, v + h / group * p->value_size, y,             \
                                           queries - empty, taking_part, scratch);                                               \
        }                                                                                                                        \
    }

#endif
