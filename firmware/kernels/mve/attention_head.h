/* One head of an attention for MVE: a query at a time against the keys it sees, then its weights against the values.
 *
 * Once per head the keys, and the values as int16, column by column, go to the scratch in the order in which the loops read
 * them. */
#ifndef PF_MVE_ATTENTION_HEAD_H
#define PF_MVE_ATTENTION_HEAD_H

#include <arm_mve.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "attention_loops.h"

/* multiple: a power of two */
static inline int32_t up(int32_t count, int32_t multiple) {
    return (count + multiple - 1) & -multiple;
}

/* Where the score of a key lies; its vectors lie likewise among those of the 8 keys. */
static inline int32_t place_of(int32_t key) {
    return (key & ~7) + (key & 1) * 4 + (key & 7) / 2;
}

/* x without its `drop` low bits, rounded; int8 loses none. */
#define NARROWED_s8(X, DROP)  (X)
#define NARROWED_s16(X, DROP) vrshlq_n_s16(X, -(DROP))
#define BITS_s8               8
#define BITS_s16              16
#define VCTP_s8(COUNT)        vctp8q((uint32_t)(COUNT))
#define VCTP_s16(COUNT)       vctp16q((uint32_t)(COUNT))
/* Values at 16-bit offsets as int16. */
#define COLUMN_s8(V, OFFSETS, THERE)  vldrbq_gather_offset_z_s16(V, OFFSETS, THERE)
#define COLUMN_s16(V, OFFSETS, THERE) vldrhq_gather_shifted_offset_z_s16(V, OFFSETS, THERE)

/* Queries: whole vectors. Keys: groups as the loops read them; behind the last key the place of one is filled with it again.
 * Values: column by column, 8 keys at a time; offsets have 16 bits, and where strides are too long for that it is one key. */
#define DEFINE_ARRANGEMENTS(IN)                                                                                                  \
    __attribute__((noinline)) static void arrange_queries_##IN(const PF_TYPE_##IN *q, int32_t stride, PF_TYPE_##IN *out,         \
                                                               int32_t queries, int32_t size, int32_t drop) {                    \
        const int32_t lanes = 16 / (int32_t)sizeof *q;                                                                           \
        (void)drop;                                                                                                              \
        for (; queries > 0; queries--, q += stride) {                                                                            \
            for (int32_t i = 0; i < size; i += lanes, out += lanes) {                                                            \
                vst1q_##IN(out, NARROWED_##IN(vld1q_z_##IN(q + i, VCTP_##IN(size - i)), drop));                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }                                                                                                                            \
    __attribute__((noinline)) static void arrange_keys_##IN(const PF_TYPE_##IN *k, int32_t stride, PF_TYPE_##IN *out,            \
                                                            int32_t keys, int32_t size, int32_t drop) {                          \
        const int32_t lanes = 16 / (int32_t)sizeof *k;                                                                           \
        (void)drop;                                                                                                              \
        for (; keys > 0; keys -= 8, k += 8 * stride) {                                                                           \
            for (int32_t i = 0; i < size; i += lanes, out += 8 * lanes) {                                                        \
                const mve_pred16_t there = VCTP_##IN(size - i);                                                                  \
                const PF_TYPE_##IN *from = k + i;                                                                                \
                for (int32_t c = 0; c < 8; c++) {                                                                                \
                    vst1q_##IN(out + place_of(c) * lanes, NARROWED_##IN(vld1q_z_##IN(from, there), drop));                       \
                    from += c + 1 < keys ? stride : 0;                                                                           \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }                                                                                                                            \
    __attribute__((noinline)) static void arrange_values_##IN(const PF_TYPE_##IN *v, int32_t stride, int16_t *out, int32_t keys, \
                                                              int32_t size, int32_t drop) {                                      \
        const int32_t pieces = up(keys, 32) / 32, step = stride < 8192 ? 8 : 1;                                                  \
        const uint16x8_t offsets = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)stride);                                            \
        (void)drop;                                                                                                              \
        for (int32_t j = 0; j < keys; j += step, v += step * stride) {                                                           \
            const mve_pred16_t there = vctp16q((uint32_t)(keys - j < step ? keys - j : step));                                   \
            int16_t *group = out + j / 32 * 256 + j % 32;                                                                        \
            const PF_TYPE_##IN *from = v;                                                                                        \
            for (int32_t left = size; left > 0; left -= 8, group += pieces * 256) {                                              \
                int16_t *to = group;                                                                                             \
                for (int32_t d = left < 8 ? left : 8; d > 0; d--, from++, to += 32) {                                            \
                    vst1q_p_s16(to, NARROWED_##IN(COLUMN_##IN(from, offsets, there), drop), there);                              \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

/* Scores from `keys` on, up to whole vectors, made equal to one that counts, so that the maximum stays. */
static void hide_scores(int32_t *scores, int32_t keys) {
    for (int32_t j = keys; j % 16 != 0; j++) {
        scores[place_of(j)] = scores[0];
    }
}

/* Numerators from `keys` on, up to a multiple of 32, made zero; returns the total without those that it held. */
static uint32_t drop_numerators(int16_t *p, int32_t keys, uint32_t total) {
    int32_t j = keys;
    for (; j % 16 != 0; j++) {
        total -= (uint16_t)p[j];
        p[j] = 0;
    }
    for (; j % 32 != 0; j += 8) {
        vst1q_s16(p + j, vdupq_n_s16(0));
    }
    return total;
}

/* Where the shift is not 32: scores whose distance is the index times 4, so that a factor of a quarter gives it back. */
static void index_scores(const pf_attention_head *head, int32_t *scores, int32_t count) {
    int32_t top = scores[0];
    for (int32_t j = 1; j < count; j++) {
        top = scores[j] > top ? scores[j] : top;
    }
    for (int32_t j = 0; j < count; j++) {
        const uint64_t product = (uint64_t)((uint32_t)top - (uint32_t)scores[j]) * (uint32_t)head->score_multiplier;
        const uint64_t index = (product + ((uint64_t)1 << (head->score_shift - 1))) >> head->score_shift;
        scores[j] = -4 * (index < PF_EXP_ENTRIES ? (int32_t)index : (int32_t)PF_EXP_ENTRIES - 1);
    }
}

/* pf_scaled_reciprocal of four totals: y = 1/total * 2^(62-lead), times the mantissa. Each as a multiplier and 32 - shift;
 * returns the largest of the latter. */
static inline int32_t find_factors(const pf_attention_head *head, const uint32_t *totals, int32_t *factors) {
    const uint32x4_t total = vld1q_u32(totals), lead = vclzq_u32(total);
    const uint32x4_t f = vshlq_u32(total, vreinterpretq_s32_u32(lead));
    uint32x4_t y = vsubq_u32(vdupq_n_u32(0xB4B4B4B5u), vmulhq_u32(f, vdupq_n_u32(0x78787879u)));
    for (int32_t i = 0; i < 3; i++) {
        const uint32x4_t error = vsubq_u32(vdupq_n_u32(0x80000000u), vmulhq_u32(f, y));
        const uint32x4_t high = vqshlq_n_u32(vmulhq_u32(y, error), 2), low = vshrq_n_u32(vmulq_u32(y, error), 30);
        y = vminq_u32(vorrq_u32(high, low), vdupq_n_u32(0x80000000u));
    }
    const uint32x4_t mantissa = vdupq_n_u32((uint32_t)head->value_mantissa);
    const uint32x4_t high = vshlq_n_u32(vmulhq_u32(y, mantissa), 1), low = vshrq_n_u32(vmulq_u32(y, mantissa), 31);
    int32x4x2_t pairs;
    pairs.val[0] = vreinterpretq_s32_u32(vorrq_u32(high, low));
    pairs.val[1] = vsubq_s32(vreinterpretq_s32_u32(lead), vdupq_n_s32(head->value_exponent - 1));
    vst2q_s32(factors, pairs);
    return vmaxvq_s32(INT32_MIN, pairs.val[1]);
}

/* Queries whose factors are found together. */
#define BATCH 4

/* A factor whose shift is 32 or less. */
#define DEFINE_EXACT_MEANS(OUT)                                                                                                  \
    __attribute__((noinline)) static void exact_means_##OUT(const means *m, int32_t all, PF_TYPE_##OUT *y) {                     \
        for (int32_t d = 0; d < m->columns; d++) {                                                                               \
            const int16_t *v = m->v + d / 8 * all * 256 + d % 8 * 32, *p = m->p;                                                 \
            int32_t sum = 0;                                                                                                     \
            for (int32_t piece = 0; piece < m->pieces; piece++, v += 256 - 32) {                                                 \
                for (int32_t j = 0; j < 32; j++) {                                                                               \
                    sum += *p++ * *v++;                                                                                          \
                }                                                                                                                \
            }                                                                                                                    \
            const int64_t mean = pf_rounding_shift((int64_t)sum * m->factors[0], 32 - m->factors[1]);                            \
            y[d] = PF_SATURATE(OUT, mean);                                                                                       \
        }                                                                                                                        \
    }

/* Distances of scores stay below 2^31 up to this size of a head. */
#define MOST_HEAD_SIZE ((int32_t)1 << 16)

/* What is the same for all queries of a head. Sizes in elements; `columns`: of numerators in a row. */
typedef struct plan {
    const pf_attention_head *head;
    scoring s;
    int32_t vectors;
    int32_t is_fast; /* scores need no index_scores */
} plan;

/* The numerators of one query against `count` keys, whatever its length and theirs; returns their sum. */
__attribute__((noinline)) static uint32_t any_numerators(const plan *a, const void *q, int16_t *p, int32_t count) {
    const int32_t sixteens = (count + 15) >> 4;
    int32_t *const score = a->s.score, *const end = score + 16 * sixteens;
    if (a->vectors == 1) {
        scores_of_one(a->s.key, q, score, end);
    } else {
        scores_of_more(a->s.key, q, score, end, a->vectors - 1);
    }
    if ((count & 15) != 0) {
        hide_scores(score, count);
    }
    if (!a->is_fast) {
        index_scores(a->head, score, 16 * sixteens);
    }
    const uint32_t total = find_numerators(score, a->s.table, a->s.multiplier, sixteens, p);
    return (count & 31) != 0 ? drop_numerators(p, count, total) : total;
}

#define DEFINE_HEAD(IN, OUT)                                                                                                     \
    DEFINE_MEANS(OUT)                                                                                                            \
    DEFINE_EXACT_MEANS(OUT)                                                                                                      \
    void pf_attention_head_##IN##_##OUT(const pf_attention_head *head, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k,             \
                                        const PF_TYPE_##IN *v, PF_TYPE_##OUT *y, int32_t queries, int32_t keys,                  \
                                        int32_t *scratch) {                                                                      \
        const int32_t lanes = 16 / (int32_t)sizeof *q, size = head->head_size, vectors = up(size, lanes) / lanes;                \
        const int32_t columns = up(keys, 32), first = head->first_keys;                                                          \
        PF_TYPE_##IN *const key = (PF_TYPE_##IN *)scratch, *const query = key + up(keys, 16) * vectors * lanes;                  \
        int16_t *const value = (int16_t *)(void *)(query + BATCH * vectors * lanes);                                             \
        int16_t *const numerator = value + up(head->value_size, 8) * columns;                                                    \
        int32_t *const score = (int32_t *)(void *)(numerator + BATCH * columns);                                                 \
        if (!head->same_keys) {                                                                                                  \
            arrange_keys_##IN(k, head->key_stride, key, keys, size, head->key_drop);                                             \
            arrange_values_##IN(v, head->value_stride, value, keys, head->value_size, head->value_drop);                         \
        }                                                                                                                        \
        const int32_t is_fast = head->score_shift == 32 && size < MOST_HEAD_SIZE, is_whole = BITS_##IN == 8 && size == lanes;    \
        const plan a = {.head = head,                                                                                            \
                        .s = {.key = key,                                                                                        \
                              .score = score,                                                                                    \
                              .table = head->table,                                                                              \
                              .multiplier = is_fast ? head->score_multiplier : (int32_t)1 << 30,                                 \
                              .end = score + keys,                                                                               \
                              .sixteens = keys / 16,                                                                             \
                              .query_step = (is_whole ? head->query_stride : vectors * lanes) * (int32_t)sizeof *q},             \
                        .vectors = vectors,                                                                                      \
                        .is_fast = is_fast};                                                                                     \
        const int32_t is_short = is_fast && vectors <= 2 && keys % 32 == 0;                                                      \
        means m = {.v = value,                                                                                                   \
                   .columns = head->value_size,                                                                                  \
                   .p_step = columns * 2,                                                                                        \
                   .y_gap = (head->output_stride - up(head->value_size, 8)) * (int32_t)sizeof *y};                               \
        for (int32_t i = 0, batch; i < queries; i += batch) {                                                                    \
            uint32_t totals[BATCH];                                                                                              \
            int32_t factors[2 * BATCH];                                                                                          \
            const int32_t seen = keys - first > i ? first + i : keys; /* queries that see fewer than all come one by one */      \
            batch = seen < keys ? 1 : queries - i < BATCH ? queries - i : BATCH;                                                 \
            const PF_TYPE_##IN *from = q;                                                                                        \
            if (!is_whole) {                                                                                                     \
                arrange_queries_##IN(q, head->query_stride, query, batch, size, head->query_drop);                               \
                from = query;                                                                                                    \
            }                                                                                                                    \
            if (seen < keys || !is_short) {                                                                                      \
                for (int32_t c = 0; c < batch; c++) {                                                                            \
                    const void *row = (const uint8_t *)from + c * a.s.query_step;                                                \
                    totals[c] = any_numerators(&a, row, numerator + c * columns, seen);                                          \
                }                                                                                                                \
            } else if (vectors == 1) {                                                                                           \
                whole_of_one(&a.s, from, numerator, totals, batch);                                                              \
            } else {                                                                                                             \
                whole_of_two(&a.s, from, numerator, totals, batch);                                                              \
            }                                                                                                                    \
            for (int32_t c = batch; c < BATCH; c++) {                                                                            \
                totals[c] = totals[0];                                                                                           \
            }                                                                                                                    \
            const int32_t nearest = find_factors(head, totals, factors);                                                         \
            m.p = numerator;                                                                                                     \
            m.pieces = (seen + 31) >> 5;                                                                                         \
            m.gap = (columns - 32 * m.pieces) * 16;                                                                              \
            m.factors = factors;                                                                                                 \
            m.queries = batch;                                                                                                   \
            if (nearest < 0) {                                                                                                   \
                means_##OUT(&m, y);                                                                                              \
            } else {                                                                                                             \
                for (int32_t c = 0; c < batch; c++, m.p += columns, m.factors += 2) {                                            \
                    exact_means_##OUT(&m, columns / 32, y + c * head->output_stride);                                            \
                }                                                                                                                \
            }                                                                                                                    \
            q += batch * head->query_stride;                                                                                     \
            y += batch * head->output_stride;                                                                                    \
        }                                                                                                                        \
    }

#endif
