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
#include "filled_rows.h"

static inline int32_t up(int32_t count, int32_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

/* Where the score of a key lies; its vectors lie likewise among those of the 8 keys. */
static inline int32_t place_of(int32_t key) {
    return (key & ~7) + (key & 1) * 4 + (key & 7) / 2;
}

/* Eight values of a column as int16; the last ones are zero where there are no more. */
static inline int16x8_t column_s8(const int8_t *v, uint16x8_t offsets, mve_pred16_t there) {
    return vldrbq_gather_offset_z_s16(v, offsets, there);
}

static void arrange_keys_s8(const int8_t *k, int32_t stride, int8_t *out, int32_t keys, int32_t size) {
    const int32_t vectors = up(size, 16) / 16;
    for (int32_t j = 0; j < keys; j++, k += stride) {
        int8_t *to = out + ((j & ~7) * vectors + place_of(j & 7)) * 16;
        for (int32_t i = 0; i < size; i += 16, to += 8 * 16) {
            vst1q_s8(to, vld1q_z_s8(k + i, vctp8q((uint32_t)(size - i))));
        }
    }
}

/* The strides of values are below 2^13 or so: what 16 bits of offset reach. Longer ones go element by element. */
static void arrange_values_s8(const int8_t *v, int32_t stride, int16_t *out, int32_t keys, int32_t size) {
    const int32_t pieces = up(keys, 32) / 32, is_near = stride < 8192;
    const uint16x8_t offsets = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)stride);
    for (int32_t d = 0; d < size; d++) {
        int16_t *to = out + d / 8 * pieces * 256 + d % 8 * 32;
        const int8_t *from = v + d;
        for (int32_t j = 0; j < keys; j += 8, from += 8 * stride) {
            int16_t *const eight = to + j / 32 * 256 + j % 32;
            if (is_near) {
                vst1q_s16(eight, column_s8(from, offsets, vctp16q((uint32_t)(keys - j))));
                continue;
            }
            for (int32_t i = 0; i < 8; i++) {
                eight[i] = j + i < keys ? from[i * stride] : 0;
            }
        }
    }
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

/* A factor whose shift is 32 or less. */
#define DEFINE_EXACT_MEANS(OUT)                                                                                                  \
    __attribute__((noinline)) static void exact_means_##OUT(const means *m, pf_factor f, int32_t all, PF_TYPE_##OUT *y) {        \
        for (int32_t d = 0; d < m->columns; d++) {                                                                               \
            const int16_t *v = m->v + d / 8 * all * 256 + d % 8 * 32, *p = m->p;                                                 \
            int32_t sum = 0;                                                                                                     \
            for (int32_t piece = 0; piece < m->pieces; piece++, v += 256 - 32) {                                                 \
                for (int32_t j = 0; j < 32; j++) {                                                                               \
                    sum += *p++ * *v++;                                                                                          \
                }                                                                                                                \
            }                                                                                                                    \
            const int64_t mean = pf_rounding_shift((int64_t)sum * f.multiplier, f.shift);                                        \
            y[d] = PF_SATURATE(OUT, mean);                                                                                       \
        }                                                                                                                        \
    }

/* Distances of scores stay below 2^31 up to this size of a head. */
#define MOST_HEAD_SIZE ((int32_t)1 << 16)

#define DEFINE_HEAD(IN, OUT)                                                                                                     \
    DEFINE_MEANS(OUT)                                                                                                            \
    DEFINE_EXACT_MEANS(OUT)                                                                                                      \
    void pf_attention_head_##IN##_##OUT(const pf_attention_head *head, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k,             \
                                        const PF_TYPE_##IN *v, PF_TYPE_##OUT *y, int32_t queries, int32_t keys,                  \
                                        int32_t *scratch) {                                                                      \
        const int32_t lanes = 16 / (int32_t)sizeof *q, size = head->head_size, vectors = up(size, lanes) / lanes;                \
        const int32_t all = up(keys, 32) / 32, first = head->first_keys;                                                         \
        PF_TYPE_##IN *const key = (PF_TYPE_##IN *)scratch, *const query = key + up(keys, 16) * vectors * lanes;                  \
        int16_t *const value = (int16_t *)(void *)(query + vectors * lanes);                                                     \
        int32_t *const score = (int32_t *)(void *)(value + up(head->value_size, 8) * all * 32);                                  \
        if (!head->same_keys) {                                                                                                  \
            arrange_keys_##IN(k, head->key_stride, key, keys, size);                                                             \
            arrange_values_##IN(v, head->value_stride, value, keys, head->value_size);                                           \
        }                                                                                                                        \
        const int32_t is_fast = head->score_shift == 32 && size < MOST_HEAD_SIZE;                                                \
        const int32_t multiplier = is_fast ? head->score_multiplier : (int32_t)1 << 30;                                          \
        means m = {.p = (const int16_t *)(const void *)score, .v = value, .columns = head->value_size};                          \
        for (int32_t i = 0; i < queries; i++, q += head->query_stride, y += head->output_stride) {                               \
            const int32_t seen = keys - first > i ? first + i : keys, sixteens = up(seen, 16) / 16;                              \
            const PF_TYPE_##IN *from = q;                                                                                        \
            if (size % lanes != 0 || vectors > 1) {                                                                              \
                fill_strided_##IN(q, 0, query, 1, size);                                                                         \
                from = query;                                                                                                    \
            }                                                                                                                    \
            if (vectors == 1) {                                                                                                  \
                scores_of_one(key, from, score, score + 16 * sixteens);                                                          \
            } else {                                                                                                             \
                scores_of_more(key, from, score, score + 16 * sixteens, vectors - 1);                                            \
            }                                                                                                                    \
            if (seen % 16 != 0) {                                                                                                \
                hide_scores(score, seen);                                                                                        \
            }                                                                                                                    \
            if (!is_fast) {                                                                                                      \
                index_scores(head, score, 16 * sixteens);                                                                        \
            }                                                                                                                    \
            uint32_t total = find_numerators(score, head->table, multiplier, sixteens);                                          \
            if (seen % 32 != 0) {                                                                                                \
                total = drop_numerators((int16_t *)score, seen, total);                                                          \
            }                                                                                                                    \
            const pf_factor f = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                         \
            m.pieces = up(seen, 32) / 32;                                                                                        \
            m.gap = (all - m.pieces) * 512;                                                                                      \
            m.multiplier = f.multiplier;                                                                                         \
            m.minus_shift = 32 - f.shift;                                                                                        \
            if (f.shift > 32) {                                                                                                  \
                means_##OUT(&m, y);                                                                                              \
            } else {                                                                                                             \
                exact_means_##OUT(&m, f, all, y);                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
