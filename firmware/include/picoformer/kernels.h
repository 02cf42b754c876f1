/* The primitives: what an instruction set may override, file by file.
 *
 * firmware/kernels/generic/ defines every primitive in plain C. A directory beside it, named after an instruction set,
 * holds files of the same names with the same symbols; a build takes each file from the first directory of its list that
 * has one. Operators that are one loop over whole rows are primitives themselves, with the prototypes of ops.h:
 *   linear_s8.c, linear_s16.c, linear_wide_s16.c    a linear layer over all its rows (decides the layout of the weight)
 *   linear_s4_s8.c, linear_s4_s16.c, linear_wide_s4_s16.c    the same with weights of 4 bits
 *   linear_s16_s8.c, linear_s16_s16.c    the same with weights of 16 bits, sums of 64
 *   requantize.c, table.c, interpolate.c, copy.c, reduce_mean.c, layer_norm.c, rms_norm.c, rope.c, kv_append.c,
 *   depthwise.c, max_pool.c, average_pool.c
 * The others are pieces that firmware/ops/ puts together:
 *   attention_head_s8.c, attention_head_s16.c    one head, all queries
 *   cached_attention_group_s8.c, cached_attention_group_s16.c    the heads that share keys of these types, one query row
 *   layer_norm_row.c    one row of layer_norm.c
 *   embedding_row_s8.c    some of a row of an embedding's table (decides the layout of the table)
 *   add_plain_span.c, add_span.c, mul_span.c    elements in a line
 */
#ifndef PICOFORMER_KERNELS_H
#define PICOFORMER_KERNELS_H

#include "picoformer/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One head of an attention. Strides: elements from one row of q, k, v, y to the next. The first query sees `first_keys` keys,
 * 1 or more, each later one a key more, none more than `keys`. */
typedef struct pf_attention_head {
    const uint16_t *table;
    int32_t score_multiplier, score_shift;
    int32_t query_drop, key_drop, value_drop;
    int32_t value_mantissa, value_exponent;
    int32_t head_size, value_size;
    int32_t query_stride, key_stride, value_stride, output_stride;
    int32_t first_keys;
    int32_t same_keys; /* k and v are those of the call before, which scratch still shows */
} pf_attention_head;
/* keys: those that take part, 1 or more. scratch: that of pf_attention_*. y == q is allowed where types and strides are the
 * same: a head reads its part of a row of q before it writes that part of y. */
void pf_attention_head_s8_s8(const pf_attention_head *p, const int8_t *q, const int8_t *k, const int8_t *v, int8_t *y,
                             int32_t queries, int32_t keys, int32_t *scratch);
void pf_attention_head_s8_s16(const pf_attention_head *p, const int8_t *q, const int8_t *k, const int8_t *v, int16_t *y,
                              int32_t queries, int32_t keys, int32_t *scratch);
void pf_attention_head_s16_s8(const pf_attention_head *p, const int16_t *q, const int16_t *k, const int16_t *v, int8_t *y,
                              int32_t queries, int32_t keys, int32_t *scratch);
void pf_attention_head_s16_s16(const pf_attention_head *p, const int16_t *q, const int16_t *k, const int16_t *v, int16_t *y,
                               int32_t queries, int32_t keys, int32_t *scratch);

/* The heads / kv_heads heads from `head` on, which share keys and values, of one row that sees the first `count` keys, 1 or more.
 * q, y: where the first of these heads lies in its row; keys: its elements of the first key; values: its rows. scratch: that of
 * pf_cached_attention_*. y == q is allowed as there: a head may be written once it has been read, not before. */
#define PF_DECLARE_CACHED_ATTENTION_GROUP(K, TK, V, TV)                                                                          \
    void pf_cached_attention_group_##K##_##V##_s8(const pf_cached_attention *p, const int16_t *q, const TK *keys,                \
                                                  const TV *values, int8_t *y, int32_t head, int32_t count, void *scratch);      \
    void pf_cached_attention_group_##K##_##V##_s16(const pf_cached_attention *p, const int16_t *q, const TK *keys,               \
                                                   const TV *values, int16_t *y, int32_t head, int32_t count, void *scratch);
PF_DECLARE_CACHED_ATTENTION_GROUP(s8, int8_t, s8, int8_t)
PF_DECLARE_CACHED_ATTENTION_GROUP(s8, int8_t, s16, int16_t)
PF_DECLARE_CACHED_ATTENTION_GROUP(s16, int16_t, s8, int8_t)
PF_DECLARE_CACHED_ATTENTION_GROUP(s16, int16_t, s16, int16_t)
#undef PF_DECLARE_CACHED_ATTENTION_GROUP

/* `count` elements of a row of the table from `first` on, up to 32, a multiple of 32 being the first; `room` has room for them.
 */
const int8_t *pf_embedding_row_s8(const pf_embedding *p, int32_t row, int32_t first, int32_t count, int8_t *room);

/* One row; y == x is allowed where the types are the same. */
void pf_layer_norm_row_s8_s8(const pf_layer_norm *p, const int8_t *x, int8_t *y);
void pf_layer_norm_row_s8_s16(const pf_layer_norm *p, const int8_t *x, int16_t *y);
void pf_layer_norm_row_s16_s8(const pf_layer_norm *p, const int16_t *x, int8_t *y);
void pf_layer_norm_row_s16_s16(const pf_layer_norm *p, const int16_t *x, int16_t *y);
void pf_layer_norm_gain_row_s8_s8(const pf_layer_norm *p, const int8_t *x, int8_t *y);
void pf_layer_norm_gain_row_s8_s16(const pf_layer_norm *p, const int8_t *x, int16_t *y);
void pf_layer_norm_gain_row_s16_s8(const pf_layer_norm *p, const int16_t *x, int8_t *y);
void pf_layer_norm_gain_row_s16_s16(const pf_layer_norm *p, const int16_t *x, int16_t *y);

/* `count` elements; b moves on by b_step (0 or 1) with each. */
#define PF_DECLARE_SPAN(A, TA, B, TB, Y, TY)                                                                                     \
    void pf_add_span_##A##_##B##_##Y(const pf_add *p, const TA *a, const TB *b, int32_t b_step, TY *y, int32_t count);           \
    void pf_mul_span_##A##_##B##_##Y(const pf_mul *p, const TA *a, const TB *b, int32_t b_step, TY *y, int32_t count);
PF_DECLARE_SPAN(s8, int8_t, s8, int8_t, s8, int8_t)
PF_DECLARE_SPAN(s8, int8_t, s8, int8_t, s16, int16_t)
PF_DECLARE_SPAN(s8, int8_t, s16, int16_t, s8, int8_t)
PF_DECLARE_SPAN(s8, int8_t, s16, int16_t, s16, int16_t)
PF_DECLARE_SPAN(s16, int16_t, s8, int8_t, s8, int8_t)
PF_DECLARE_SPAN(s16, int16_t, s8, int8_t, s16, int16_t)
PF_DECLARE_SPAN(s16, int16_t, s16, int16_t, s8, int8_t)
PF_DECLARE_SPAN(s16, int16_t, s16, int16_t, s16, int16_t)
#undef PF_DECLARE_SPAN
void pf_add_plain_span_s16(const int16_t *a, const int16_t *b, int32_t b_step, int16_t *y, int32_t count);

#ifdef __cplusplus
}
#endif

#endif
