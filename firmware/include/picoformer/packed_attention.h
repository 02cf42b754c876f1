/* One head of an attention on int8, six queries at a time: pf_packed_dot for the scores, pf_dot_six for
 * the weighted means; both come from the instruction set's directory, see packed_sums.h.
 *
 * scratch: the packed queries; numerators of each key, six words; the keys and, transposed, the values, 128 added to each. */
#ifndef PICOFORMER_PACKED_ATTENTION_H
#define PICOFORMER_PACKED_ATTENTION_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
#include "picoformer/packed_sums.h"

/* rows[i][0..size-1] = x + 128, rows `columns` bytes apart; what is past `size` meets zeros only. */
static void pf_copy_keys(const int8_t *x, int32_t stride, int32_t count, int32_t size, uint8_t *rows, int32_t columns) {
    for (int32_t i = 0; i < count; i++, x += stride, rows += columns) {
        for (int32_t j = 0; j < size; j++) {
            rows[j] = (uint8_t)(x[j] ^ -128);
        }
    }
}

static void pf_copy_values(const int8_t *x, int32_t stride, int32_t count, int32_t size, uint8_t *columns, int32_t length) {
    for (int32_t j = 0; j < size; j++, columns += length) {
        const int8_t *from = x + j;
        for (int32_t i = 0; i < count; i++, from += stride) {
            columns[i] = (uint8_t)(*from ^ -128);
        }
    }
}

PF_DEFINE_PACKED_ROW

/* Scores of six queries with each key. Sums of products of which both may be -128 may reach 2^20, one too many: pf_pack_six was
 * told to lower them, all of a query alike, and only their differences count. */
static void pf_packed_scores(const uint32_t *q, const uint8_t *keys, int32_t count, int32_t columns, int32_t *scores) {
    for (int32_t i = 0; i < count; i += PF_WEIGHT_ROWS) {
        for (int32_t c = 0; c < PF_PACKED_ROWS * PF_WEIGHT_ROWS; c++) {
            scores[c] = 0;
        }
        pf_packed_row(keys, i + PF_WEIGHT_ROWS <= count ? columns : 0, q, columns, scores);
        keys += PF_WEIGHT_ROWS * columns;
        scores += PF_PACKED_ROWS * PF_WEIGHT_ROWS;
    }
}

/* The scores of one query become numerators, zeros from `count` on to `length`; returns their sum. */
static uint32_t pf_packed_numerators(const pf_attention_head *head, int32_t *p, int32_t count, int32_t length) {
    int32_t top = *p;
    for (int32_t j = 1; j < count; j++) {
        const int32_t score = p[PF_PACKED_ROWS * j];
        top = score > top ? score : top;
    }
    const uint16_t *table = head->table;
    const uint32_t multiplier = (uint32_t)head->score_multiplier;
    const int32_t shift = head->score_shift;
    uint32_t total = 0;
    for (int32_t j = 0; j < count; j++, p += PF_PACKED_ROWS) {
        const uint32_t numerator = pf_numerator(table, (uint32_t)(top - *p), multiplier, shift);
        *p = (int32_t)numerator;
        total += numerator;
    }
    for (int32_t j = count; j < length; j++, p += PF_PACKED_ROWS) {
        *p = 0;
    }
    return total;
}

#define PF_DEFINE_PACKED_HEAD(OUT)                                                                                               \
    void pf_attention_head_s8_##OUT(const pf_attention_head *head, const int8_t *q, const int8_t *k, const int8_t *v,            \
                                    PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                         \
        const int32_t columns = pf_packed_columns(head->head_size), length = pf_packed_columns(keys);                            \
        uint32_t *const packed = (uint32_t *)scratch;                                                                            \
        int32_t *const scores = scratch + pf_packed_words(head->head_size);                                                      \
        uint8_t *const k_rows = (uint8_t *)(scores + PF_PACKED_ROWS * length), *const v_columns = k_rows + keys * columns;       \
        if (!head->same_keys) {                                                                                                  \
            pf_copy_keys(k, head->key_stride, keys, head->head_size, k_rows, columns);                                           \
            pf_copy_values(v, head->value_stride, keys, head->value_size, v_columns, length);                                    \
        }                                                                                                                        \
        for (int32_t i = 0; i < queries; i += PF_PACKED_ROWS) {                                                                  \
            const int32_t rows = queries - i < PF_PACKED_ROWS ? queries - i : PF_PACKED_ROWS;                                    \
            const int32_t seen = keys - head->first_keys > i + rows - 1 ? head->first_keys + i + rows - 1 : keys;                \
            const int32_t turns = pf_packed_columns(seen);                                                                       \
            pf_factor factors[PF_PACKED_ROWS];                                                                                   \
            int32_t starts[PF_PACKED_ROWS] = {0};                                                                                \
            pf_pack_six(q, head->query_stride, rows, head->head_size, 1u, packed);                                               \
            pf_packed_scores(packed, k_rows, seen, columns, scores);                                                             \
            for (int32_t r = 0; r < PF_PACKED_ROWS; r++) {                                                                       \
                const int32_t row = r < rows ? r : rows - 1;                                                                     \
                const int32_t count = keys - head->first_keys > i + row ? head->first_keys + i + row : keys;                     \
                const uint32_t total = pf_packed_numerators(head, scores + r, count, turns);                                     \
                factors[r] = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                            \
                starts[r] = (int32_t)(0u - (total << 7));                                                                        \
            }                                                                                                                    \
            for (int32_t d = 0; d < head->value_size; d++) {                                                                     \
                int32_t sums[PF_PACKED_ROWS];                                                                                    \
                PF_TYPE_##OUT *to = y + d;                                                                                       \
                for (int32_t r = 0; r < PF_PACKED_ROWS; r++) {                                                                   \
                    sums[r] = starts[r];                                                                                         \
                }                                                                                                                \
                pf_dot_six(v_columns + d * length, scores, turns, sums);                                                         \
                for (int32_t r = 0; r < rows; r++, to += head->output_stride) {                                                  \
                    const int32_t value = pf_rescale_far(sums[r], factors[r].multiplier, factors[r].shift);                      \
                    *to = PF_SATURATE(OUT, value);                                                                               \
                }                                                                                                                \
            }                                                                                                                    \
            q += PF_PACKED_ROWS * head->query_stride;                                                                            \
            y += PF_PACKED_ROWS * head->output_stride;                                                                           \
        }                                                                                                                        \
    }

#endif
