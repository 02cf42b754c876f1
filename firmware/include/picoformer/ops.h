/* The operators: what a generated model calls, one call per step. firmware/SPEC.md states what each computes. Those that read
 * windows of images are in ops_window.h. */
#ifndef PICOFORMER_OPS_H
#define PICOFORMER_OPS_H

#include <stdint.h>

#include "picoformer/ops_window.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Status of a step. Negative values are errors; a failed step leaves its output undefined. */
#define PF_OK          0
#define PF_ERROR_INDEX (-1) /* an id, position or count lies outside the table, cache or block that it counts in */

/* Conventions: buffers never overlap unless a comment allows y == x; every pointer is aligned to its element, weights and
 * arena buffers to 16 bytes; sizes are positive and were proven at compile time to keep every sum in range.
 * Names end in the types of the data: _s8_s16 reads int8 and writes int16. */

/* y[r][n] = activation(requantize(bias[n] + sum_k weight[n][k] * x[r][k])). scratch: what the instruction set's directory wants,
 * aligned to 16 bytes; generic: NULL. The activation, where there is one, is that of pf_table_* or pf_interpolate_*; then
 * requantize gives what these read. Or the result is added to a residual: y[r][n] = clamp(y[r][n] + requantize(...)), for y of
 * int16. */
#define PF_RESIDUAL 1
typedef struct pf_linear {
    const int8_t *weight;   /* n x k, laid out as the instruction set's directory wants it; generic: row by row */
    const int32_t *bias;    /* n; the zero point of the input is folded in */
    const uint16_t *factor; /* n: the multipliers f << (f & 15) */
    const void *table;      /* of the activation, in y's type (256) or int16 (513); NULL where there is none */
    int32_t entries;        /* of the table: 256 for results of 8 bits, 513 for 16 bits; 0 without one, PF_RESIDUAL where y
                               holds what the result is added to */
    int32_t n, k;
    int32_t shift; /* 1..32 */
    int32_t zero_point;
    int32_t headroom; /* every sum times 2^headroom was proven to fit 32 bits */
    int32_t block;    /* rows of x that scratch holds at a time; 0 where the kernel wants no scratch */
} pf_linear;
void pf_linear_s8_s8(const pf_linear *p, const int8_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_s8_s16(const pf_linear *p, const int8_t *x, int16_t *y, int32_t rows, void *scratch);
void pf_linear_s16_s8(const pf_linear *p, const int16_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_s16_s16(const pf_linear *p, const int16_t *x, int16_t *y, int32_t rows, void *scratch);
/* The same with 64-bit sums, where 32 bits were not proven to be enough. */
void pf_linear_wide_s16_s8(const pf_linear *p, const int16_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_wide_s16_s16(const pf_linear *p, const int16_t *x, int16_t *y, int32_t rows, void *scratch);

/* The same with weights of 4 bits, -7..7: the sum is bias[n] + sum_k m[n][k / 32] * weight[n][k] * x[r][k]. A product of m and a
 * weight fits int8. scratch as above; generic: k bytes */
typedef struct pf_linear_s4 {
    const uint8_t *weight;           /* two to a byte, laid out as the instruction set's directory wants it; generic: row by
                                        row, (k + 1) / 2 bytes each, the earlier one in the low half */
    const uint8_t *block_multiplier; /* m, 1..15: n x (k + 31) / 32, or NULL where all are 1 */
    const int32_t *bias;             /* n; the zero point of the input is folded in */
    const uint16_t *factor;          /* n; as above */
    const void *table;               /* as above */
    int32_t entries;
    int32_t n, k;
    int32_t shift; /* 1..32 */
    int32_t zero_point;
    int32_t headroom; /* every sum times 2^headroom was proven to fit 32 bits */
    int32_t block;    /* rows of x that scratch holds at a time; 0 where the kernel keeps none there */
} pf_linear_s4;
void pf_linear_s4_s8_s8(const pf_linear_s4 *p, const int8_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_s4_s8_s16(const pf_linear_s4 *p, const int8_t *x, int16_t *y, int32_t rows, void *scratch);
void pf_linear_s4_s16_s8(const pf_linear_s4 *p, const int16_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_s4_s16_s16(const pf_linear_s4 *p, const int16_t *x, int16_t *y, int32_t rows, void *scratch);
/* The same with 64-bit sums, where 32 bits were not proven to be enough. */
void pf_linear_wide_s4_s16_s8(const pf_linear_s4 *p, const int16_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_wide_s4_s16_s16(const pf_linear_s4 *p, const int16_t *x, int16_t *y, int32_t rows, void *scratch);

/* The same with weights of 16 bits, row by row, and sums of 64 bits. scratch: NULL */
typedef struct pf_linear_w16 {
    const int16_t *weight;  /* n x k */
    const int32_t *bias;    /* n; the zero point of the input is folded in */
    const uint16_t *factor; /* n; as above */
    const void *table;      /* as above */
    int32_t entries;
    int32_t n, k;
    int32_t shift; /* 1..32; 17 or more where a sum passes 32 bits */
    int32_t zero_point;
    int32_t headroom;
    int32_t block;
} pf_linear_w16;
void pf_linear_s16_s8_s8(const pf_linear_w16 *p, const int8_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_s16_s8_s16(const pf_linear_w16 *p, const int8_t *x, int16_t *y, int32_t rows, void *scratch);
void pf_linear_s16_s16_s8(const pf_linear_w16 *p, const int16_t *x, int8_t *y, int32_t rows, void *scratch);
void pf_linear_s16_s16_s16(const pf_linear_w16 *p, const int16_t *x, int16_t *y, int32_t rows, void *scratch);

/* softmax(q k^T) v of all heads; q: queries x heads*head_size, k: keys x kv_heads*head_size, v: keys x kv_heads*value_size,
 * y: queries x heads*value_size. Head h reads keys and values of head h / (heads / kv_heads). Keys at or past `valid` (0..keys)
 * are left out, and where causal keys past i + keys - queries in row i; a row without a key is zero. s16: q, k, v lose low bits
 * first, x = (x + 2^(drop-1)) >> drop, so that all sums fit 32 bits. scratch: what the instruction set's directory wants,
 * aligned to 16 bytes; generic: `keys` words. y == q is allowed where the types are the same and value_size == head_size. Rows
 * may be computed a few at a time: rows first .. first + count - 1 of a causal attention are a call with `count` queries and
 * keys - (queries - first - count) keys. */
typedef struct pf_attention {
    const int32_t *score_multiplier; /* per head */
    const uint16_t *table;           /* 1024 numerators */
    const int32_t *value_mantissa;   /* per head */
    const int32_t *value_exponent;   /* per head */
    int32_t heads, kv_heads, head_size, value_size;
    int32_t score_shift;
    int32_t query_drop, key_drop, value_drop; /* 0 for s8 */
    int32_t causal;
} pf_attention;
void pf_attention_s8_s8(const pf_attention *p, const int8_t *q, const int8_t *k, const int8_t *v, int8_t *y, int32_t queries,
                        int32_t keys, int32_t valid, int32_t *scratch);
void pf_attention_s8_s16(const pf_attention *p, const int8_t *q, const int8_t *k, const int8_t *v, int16_t *y, int32_t queries,
                         int32_t keys, int32_t valid, int32_t *scratch);
void pf_attention_s16_s8(const pf_attention *p, const int16_t *q, const int16_t *k, const int16_t *v, int8_t *y, int32_t queries,
                         int32_t keys, int32_t valid, int32_t *scratch);
void pf_attention_s16_s16(const pf_attention *p, const int16_t *q, const int16_t *k, const int16_t *v, int16_t *y,
                          int32_t queries, int32_t keys, int32_t valid, int32_t *scratch);

/* Normalization of each row; y == x is allowed where the types are the same. gain and offset are NULL where there are none. */
typedef struct pf_layer_norm {
    int64_t epsilon;
    const int32_t *gain;
    const int64_t *offset;
    int32_t width;
    int32_t mantissa, exponent;
    int32_t shift; /* of the gain */
    int32_t zero_point;
} pf_layer_norm;
void pf_layer_norm_s8_s8(const pf_layer_norm *p, const int8_t *x, int8_t *y, int32_t rows);
void pf_layer_norm_s8_s16(const pf_layer_norm *p, const int8_t *x, int16_t *y, int32_t rows);
void pf_layer_norm_s16_s8(const pf_layer_norm *p, const int16_t *x, int8_t *y, int32_t rows);
void pf_layer_norm_s16_s16(const pf_layer_norm *p, const int16_t *x, int16_t *y, int32_t rows);
/* The same with a gain and an offset per element. */
void pf_layer_norm_gain_s8_s8(const pf_layer_norm *p, const int8_t *x, int8_t *y, int32_t rows);
void pf_layer_norm_gain_s8_s16(const pf_layer_norm *p, const int8_t *x, int16_t *y, int32_t rows);
void pf_layer_norm_gain_s16_s8(const pf_layer_norm *p, const int16_t *x, int8_t *y, int32_t rows);
void pf_layer_norm_gain_s16_s16(const pf_layer_norm *p, const int16_t *x, int16_t *y, int32_t rows);

/* Each row over its root mean square, times a gain where there is one; y == x is allowed where the types are the same. */
typedef struct pf_rms_norm {
    int64_t epsilon;
    const int32_t *gain; /* width, or NULL */
    int32_t width;
    int32_t mantissa, exponent;
    int32_t shift; /* of the gain */
    int32_t zero_in, zero_point;
} pf_rms_norm;
void pf_rms_norm_s8_s8(const pf_rms_norm *p, const int8_t *x, int8_t *y, int32_t rows);
void pf_rms_norm_s8_s16(const pf_rms_norm *p, const int8_t *x, int16_t *y, int32_t rows);
void pf_rms_norm_s16_s8(const pf_rms_norm *p, const int16_t *x, int8_t *y, int32_t rows);
void pf_rms_norm_s16_s16(const pf_rms_norm *p, const int16_t *x, int16_t *y, int32_t rows);

/* y[i] = table[x[i] + 128], 256 entries; y == x is allowed for s8_s8. */
void pf_table_s8_s8(const int8_t *table, const int8_t *x, int8_t *y, int32_t count);
void pf_table_s8_s16(const int16_t *table, const int8_t *x, int16_t *y, int32_t count);
/* Interpolated table of 513 entries; y == x is allowed for s16_s16. */
void pf_interpolate_s16_s8(const int16_t *table, const int16_t *x, int8_t *y, int32_t count);
void pf_interpolate_s16_s16(const int16_t *table, const int16_t *x, int16_t *y, int32_t count);

/* How the second operand of an element-wise operator is read for element i of the first: b[(i / inner) % period].
 * Equal shapes: period = count, inner = 1. y == a is allowed where the types are the same (y == b too when the shapes are equal).
 */
typedef struct pf_broadcast {
    int32_t count, period, inner;
} pf_broadcast;

/* y = clamp((a * multiplier_a + b * multiplier_b + offset + 2^(shift-1)) >> shift) */
typedef struct pf_add {
    int64_t offset;
    int32_t multiplier_a, multiplier_b;
    int32_t shift;
} pf_add;
/* y = clamp(zero_point + (((a - zero_a) * (b - zero_b) * multiplier + 2^(shift-1)) >> shift)) */
typedef struct pf_mul {
    int32_t multiplier, shift;
    int32_t zero_a, zero_b, zero_point;
} pf_mul;
#define PF_DECLARE_ELEMENTWISE(A, TA, B, TB)                                                                                     \
    void pf_add_##A##_##B##_s8(const pf_add *p, const pf_broadcast *shape, const TA *a, const TB *b, int8_t *y);                 \
    void pf_add_##A##_##B##_s16(const pf_add *p, const pf_broadcast *shape, const TA *a, const TB *b, int16_t *y);               \
    void pf_mul_##A##_##B##_s8(const pf_mul *p, const pf_broadcast *shape, const TA *a, const TB *b, int8_t *y);                 \
    void pf_mul_##A##_##B##_s16(const pf_mul *p, const pf_broadcast *shape, const TA *a, const TB *b, int16_t *y);
PF_DECLARE_ELEMENTWISE(s8, int8_t, s8, int8_t)
PF_DECLARE_ELEMENTWISE(s8, int8_t, s16, int16_t)
PF_DECLARE_ELEMENTWISE(s16, int16_t, s8, int8_t)
PF_DECLARE_ELEMENTWISE(s16, int16_t, s16, int16_t)
#undef PF_DECLARE_ELEMENTWISE
/* y = clamp(a + b): all three on one grid, equal shapes or a repeated b. */
void pf_add_plain_s16(const pf_broadcast *shape, const int16_t *a, const int16_t *b, int16_t *y);

/* y = requantize(x - zero_in); y == x is allowed where the types are the same. */
typedef struct pf_requantize {
    int32_t multiplier, shift;
    int32_t zero_in, zero_point;
} pf_requantize;
void pf_requantize_s8_s8(const pf_requantize *p, const int8_t *x, int8_t *y, int32_t count);
void pf_requantize_s8_s16(const pf_requantize *p, const int8_t *x, int16_t *y, int32_t count);
void pf_requantize_s16_s8(const pf_requantize *p, const int16_t *x, int8_t *y, int32_t count);
void pf_requantize_s16_s16(const pf_requantize *p, const int16_t *x, int16_t *y, int32_t count);

/* Rows of a table picked by ids and requantized row by row. Returns PF_OK or PF_ERROR_INDEX. */
typedef struct pf_embedding {
    const int8_t *table;       /* rows x width, laid out as the instruction set's directory wants it; generic: row by row */
    const int32_t *multiplier; /* per row of the table */
    int32_t rows, width;
    int32_t shift, zero_point;
} pf_embedding;
int pf_embedding_s8(const pf_embedding *p, const int32_t *ids, int8_t *y, int32_t count);
int pf_embedding_s16(const pf_embedding *p, const int32_t *ids, int16_t *y, int32_t count);

/* The same with a table of 16 bits. */
typedef struct pf_embedding_w16 {
    const int16_t *table;
    const int32_t *multiplier;
    int32_t rows, width;
    int32_t shift, zero_point;
} pf_embedding_w16;
int pf_embedding_s16_s8(const pf_embedding_w16 *p, const int32_t *ids, int8_t *y, int32_t count);
int pf_embedding_s16_s16(const pf_embedding_w16 *p, const int32_t *ids, int16_t *y, int32_t count);

/* Mean over the middle axis of outer x length x inner, its first `valid` (0..length) entries only. */
typedef struct pf_reduce_mean {
    int32_t mantissa, exponent;
    int32_t zero_in, zero_point;
    int32_t outer, length, inner;
} pf_reduce_mean;
void pf_reduce_mean_s8_s8(const pf_reduce_mean *p, const int8_t *x, int8_t *y, int32_t valid);
void pf_reduce_mean_s8_s16(const pf_reduce_mean *p, const int8_t *x, int16_t *y, int32_t valid);
void pf_reduce_mean_s16_s8(const pf_reduce_mean *p, const int16_t *x, int8_t *y, int32_t valid);
void pf_reduce_mean_s16_s16(const pf_reduce_mean *p, const int16_t *x, int16_t *y, int32_t valid);

/* Softmax of each row. */
typedef struct pf_softmax {
    const uint16_t *table; /* 1024 numerators */
    int32_t width;
    int32_t multiplier, shift;
    int32_t mantissa, exponent;
    int32_t zero_point;
} pf_softmax;
void pf_softmax_s8_s8(const pf_softmax *p, const int8_t *x, int8_t *y, int32_t rows);
void pf_softmax_s8_s16(const pf_softmax *p, const int8_t *x, int16_t *y, int32_t rows);
void pf_softmax_s16_s8(const pf_softmax *p, const int16_t *x, int8_t *y, int32_t rows);
void pf_softmax_s16_s16(const pf_softmax *p, const int16_t *x, int16_t *y, int32_t rows);

/* A decode step: `rows` rows of a block of tokens, the first at `position`, against caches of `positions` entries. Functions that
 * return a status give PF_OK, or PF_ERROR_INDEX before anything is read or written beyond its place. */

/* y[i] = position + i */
void pf_position_ids(int32_t *y, int32_t position, int32_t rows);
/* Row count - 1 of x, whose rows have `bytes` bytes; count 1..rows. */
int pf_take_row(void *y, const void *x, int32_t count, int32_t rows, int32_t bytes);

/* Pairs of every head turned: y0 = (x0 * c - x1 * s + 2^13) >> 14, y1 = (x0 * s + x1 * c + 2^13) >> 14, saturated; elements past
 * `rotary` of a head are copied. y == x is allowed. */
typedef struct pf_rope {
    const int16_t *rotations; /* positions x rotary: c and s of each pair, none -32768; aligned to 4 bytes */
    int32_t positions, heads, head_size;
    int32_t rotary;      /* elements of a head that turn, even */
    int32_t interleaved; /* whether a pair is elements 2i and 2i + 1, else i and i + rotary / 2 */
} pf_rope;
int pf_rope_s16(const pf_rope *p, const int16_t *x, int16_t *y, int32_t position, int32_t rows);

/* The first `count` of the rows (width elements each) into the cache at position, position + 1 ...: requantize(row - zero_in),
 * clamped to `bits` bits. The cache is positions x width; where transposed width x positions. */
typedef struct pf_kv_append {
    int32_t multiplier, shift;
    int32_t zero_in;
    int32_t bits;
    int32_t transposed;
    int32_t positions, width;
    int32_t block; /* most rows there are */
} pf_kv_append;
int pf_kv_append_s8_s8(const pf_kv_append *p, const int8_t *rows, int8_t *cache, int32_t position, int32_t count);
int pf_kv_append_s8_s16(const pf_kv_append *p, const int8_t *rows, int16_t *cache, int32_t position, int32_t count);
int pf_kv_append_s16_s8(const pf_kv_append *p, const int16_t *rows, int8_t *cache, int32_t position, int32_t count);
int pf_kv_append_s16_s16(const pf_kv_append *p, const int16_t *rows, int16_t *cache, int32_t position, int32_t count);

/* softmax(q k^T + slope) v of all heads; q: rows x heads*head_size, keys: positions x kv_heads*head_size, values:
 * kv_heads*value_size x positions, y: rows x heads*value_size. Row i sees keys 0 .. position + i. Head h reads keys and values of
 * head h / (heads / kv_heads). Names end in the types of keys, values and y. scratch: what the instruction set's directory wants,
 * aligned to 16 bytes; generic: `positions` words and head_size half words. y == q is allowed where y is s16 and value_size ==
 * head_size. */
typedef struct pf_cached_attention {
    const uint16_t *table;           /* 1024 numerators */
    const int32_t *slope_multiplier; /* per head, in 2^-8 of a score; NULL without slopes */
    int32_t heads, kv_heads, head_size, value_size;
    int32_t positions;
    int32_t query_drop; /* low bits that queries lose so that a score fits 32 bits */
    int32_t score_multiplier, score_shift;
    int32_t value_shift; /* low bits that a sum of values loses so that it fits 32 bits */
    int32_t value_mantissa, value_exponent;
} pf_cached_attention;
#define PF_DECLARE_CACHED_ATTENTION(K, TK, V, TV)                                                                                \
    int pf_cached_attention_##K##_##V##_s8(const pf_cached_attention *p, const int16_t *q, const TK *keys, const TV *values,     \
                                           int8_t *y, int32_t position, int32_t rows, void *scratch);                            \
    int pf_cached_attention_##K##_##V##_s16(const pf_cached_attention *p, const int16_t *q, const TK *keys, const TV *values,    \
                                            int16_t *y, int32_t position, int32_t rows, void *scratch);
PF_DECLARE_CACHED_ATTENTION(s8, int8_t, s8, int8_t)
PF_DECLARE_CACHED_ATTENTION(s8, int8_t, s16, int16_t)
PF_DECLARE_CACHED_ATTENTION(s16, int16_t, s8, int8_t)
PF_DECLARE_CACHED_ATTENTION(s16, int16_t, s16, int16_t)
#undef PF_DECLARE_CACHED_ATTENTION

/* Mixtures of experts. The `chosen` largest of each row of logits, the largest first, of equal ones the first; 1..experts. */
void pf_top_experts_s8(const int8_t *x, int32_t *y, int32_t rows, int32_t experts, int32_t chosen);
void pf_top_experts_s16(const int16_t *x, int32_t *y, int32_t rows, int32_t experts, int32_t chosen);
/* Softmax of the logits that the ids name, in steps of 2^-15; x: rows x experts, ids and y: rows x chosen. */
typedef struct pf_expert_weights {
    const uint16_t *table; /* 1024 numerators */
    int32_t experts, chosen;
    int32_t multiplier, shift;
    int32_t mantissa, exponent;
} pf_expert_weights;
int pf_expert_weights_s8_s16(const pf_expert_weights *p, const int8_t *x, const int32_t *ids, int16_t *y, int32_t rows);
int pf_expert_weights_s16_s16(const pf_expert_weights *p, const int16_t *x, const int32_t *ids, int16_t *y, int32_t rows);
/* Row r is what pf_linear_* gives for it with the weight, bias and multipliers of expert ids[r * chosen + slot]. n of `linear` is
 * the outputs of one expert, its pointers are those of expert 0, and expert e has its own e * n numbers, or e * weight_bytes
 * bytes, further on. scratch: that of pf_linear_* for one row. */
typedef struct pf_experts {
    int32_t experts, chosen, slot;
    int32_t weight_bytes; /* of one expert, as the kernel wants them, filled up to a multiple of 16 */
} pf_experts;
#define PF_DECLARE_EXPERT_LINEAR(NAME, LINEAR, X, TX)                                                                            \
    int pf_expert_linear_##NAME##X##_s8(const pf_experts *p, const LINEAR *linear, const TX *x, const int32_t *ids, int8_t *y,   \
                                        int32_t rows, void *scratch);                                                            \
    int pf_expert_linear_##NAME##X##_s16(const pf_experts *p, const LINEAR *linear, const TX *x, const int32_t *ids, int16_t *y, \
                                         int32_t rows, void *scratch);
PF_DECLARE_EXPERT_LINEAR(, pf_linear, s8, int8_t)
PF_DECLARE_EXPERT_LINEAR(, pf_linear, s16, int16_t)
PF_DECLARE_EXPERT_LINEAR(wide_, pf_linear, s16, int16_t)
PF_DECLARE_EXPERT_LINEAR(s4_, pf_linear_s4, s8, int8_t)
PF_DECLARE_EXPERT_LINEAR(s4_, pf_linear_s4, s16, int16_t)
PF_DECLARE_EXPERT_LINEAR(wide_s4_, pf_linear_s4, s16, int16_t)
#undef PF_DECLARE_EXPERT_LINEAR
/* y = requantize((x - zero_a) * weights[r * chosen + slot]) in row r of `width` elements, as pf_mul_*; y == x is allowed where
 * the types are the same. */
typedef struct pf_scale_rows {
    int32_t multiplier, shift;
    int32_t zero_a, zero_point;
    int32_t width, chosen, slot;
} pf_scale_rows;
void pf_scale_rows_s8_s8(const pf_scale_rows *p, const int8_t *x, const int16_t *weights, int8_t *y, int32_t rows);
void pf_scale_rows_s8_s16(const pf_scale_rows *p, const int8_t *x, const int16_t *weights, int16_t *y, int32_t rows);
void pf_scale_rows_s16_s8(const pf_scale_rows *p, const int16_t *x, const int16_t *weights, int8_t *y, int32_t rows);
void pf_scale_rows_s16_s16(const pf_scale_rows *p, const int16_t *x, const int16_t *weights, int16_t *y, int32_t rows);

/* Moving data, any type: sizes and strides in bytes. */
/* `count` blocks of `bytes` bytes from src (one every src_stride) to dst (one every dst_stride). */
void pf_copy_blocks(void *dst, const void *src, int32_t count, int32_t bytes, int32_t dst_stride, int32_t src_stride);
/* Output axis i has shape[i] entries, src_stride[i] bytes apart in the source; elements of element_bytes; rank 1..6. */
void pf_transpose(void *dst, const void *src, int32_t rank, const int32_t *shape, const int32_t *src_stride,
                  int32_t element_bytes);

/* Float: the yardstick. Same shapes as above; exponential, error function and square root are this library's own. */
typedef struct pf_linear_f32_params {
    const float *weight; /* n x k */
    const float *bias;   /* n, or NULL */
    int32_t n, k;
} pf_linear_f32_params;
void pf_linear_f32(const pf_linear_f32_params *p, const float *x, float *y, int32_t rows);
typedef struct pf_attention_f32_params {
    float scale;
    int32_t heads, kv_heads, head_size, value_size;
    int32_t causal;
} pf_attention_f32_params;
/* scratch: `keys` floats */
void pf_attention_f32(const pf_attention_f32_params *p, const float *q, const float *k, const float *v, float *y, int32_t queries,
                      int32_t keys, int32_t valid, float *scratch);
typedef struct pf_layer_norm_f32_params {
    const float *gain, *bias; /* both or neither NULL */
    int32_t width;
    float epsilon;
} pf_layer_norm_f32_params;
void pf_layer_norm_f32(const pf_layer_norm_f32_params *p, const float *x, float *y, int32_t rows);
void pf_relu_f32(const float *x, float *y, int32_t count);
void pf_gelu_f32(const float *x, float *y, int32_t count);
void pf_gelu_tanh_f32(const float *x, float *y, int32_t count);
void pf_silu_f32(const float *x, float *y, int32_t count);
void pf_tanh_f32(const float *x, float *y, int32_t count);
void pf_sigmoid_f32(const float *x, float *y, int32_t count);
void pf_absolute_f32(const float *x, float *y, int32_t count);
void pf_error_function_f32(const float *x, float *y, int32_t count);
void pf_exponential_f32(const float *x, float *y, int32_t count);
void pf_hard_swish_f32(const float *x, float *y, int32_t count);
void pf_logarithm_f32(const float *x, float *y, int32_t count);
void pf_mish_f32(const float *x, float *y, int32_t count);
void pf_reciprocal_f32(const float *x, float *y, int32_t count);
void pf_softplus_f32(const float *x, float *y, int32_t count);
void pf_softsign_f32(const float *x, float *y, int32_t count);
void pf_square_root_f32(const float *x, float *y, int32_t count);
/* The same with parameters: celu alpha; clip low, high; elu alpha; hard_sigmoid slope, middle; leaky_relu slope; selu alpha,
 * gamma; swish rate. */
void pf_celu_f32(const float *p, const float *x, float *y, int32_t count);
void pf_clip_f32(const float *p, const float *x, float *y, int32_t count);
void pf_elu_f32(const float *p, const float *x, float *y, int32_t count);
void pf_hard_sigmoid_f32(const float *p, const float *x, float *y, int32_t count);
void pf_leaky_relu_f32(const float *p, const float *x, float *y, int32_t count);
void pf_selu_f32(const float *p, const float *x, float *y, int32_t count);
void pf_swish_f32(const float *p, const float *x, float *y, int32_t count);
void pf_add_f32(const pf_broadcast *shape, const float *a, const float *b, float *y);
void pf_mul_f32(const pf_broadcast *shape, const float *a, const float *b, float *y);
typedef struct pf_embedding_f32_params {
    const float *table;
    int32_t rows, width;
} pf_embedding_f32_params;
int pf_embedding_f32(const pf_embedding_f32_params *p, const int32_t *ids, float *y, int32_t count);
void pf_reduce_mean_f32(const float *x, float *y, int32_t outer, int32_t length, int32_t inner, int32_t valid);
void pf_softmax_f32(const float *x, float *y, int32_t rows, int32_t width);
typedef struct pf_rms_norm_f32_params {
    const float *gain; /* or NULL */
    int32_t width;
    float epsilon;
} pf_rms_norm_f32_params;
void pf_rms_norm_f32(const pf_rms_norm_f32_params *p, const float *x, float *y, int32_t rows);
typedef struct pf_rope_f32_params {
    const float *rotations;
    int32_t positions, heads, head_size, rotary, interleaved;
} pf_rope_f32_params;
int pf_rope_f32(const pf_rope_f32_params *p, const float *x, float *y, int32_t position, int32_t rows);
typedef struct pf_kv_append_f32_params {
    int32_t transposed, positions, width, block;
} pf_kv_append_f32_params;
int pf_kv_append_f32(const pf_kv_append_f32_params *p, const float *rows, float *cache, int32_t position, int32_t count);
typedef struct pf_cached_attention_f32_params {
    const float *slopes; /* per head, or NULL; over the scale where `bfloat16`: slope times position is rounded to one */
    float scale;
    int32_t bfloat16;
    int32_t heads, kv_heads, head_size, value_size, positions;
} pf_cached_attention_f32_params;
/* scratch: `positions` floats */
int pf_cached_attention_f32(const pf_cached_attention_f32_params *p, const float *q, const float *keys, const float *values,
                            float *y, int32_t position, int32_t rows, float *scratch);
void pf_top_experts_f32(const float *x, int32_t *y, int32_t rows, int32_t experts, int32_t chosen);
int pf_expert_weights_f32(const float *x, const int32_t *ids, float *y, int32_t rows, int32_t experts, int32_t chosen);
int pf_expert_linear_f32(const pf_experts *p, const pf_linear_f32_params *linear, const float *x, const int32_t *ids, float *y,
                         int32_t rows);
void pf_scale_rows_f32(const float *x, const float *weights, float *y, int32_t rows, int32_t width, int32_t chosen, int32_t slot);

#ifdef __cplusplus
}
#endif

#endif
