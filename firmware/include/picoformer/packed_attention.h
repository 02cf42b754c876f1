/* One head of an attention, six queries at a time; the inner loops come from the instruction set's directory, see packed_sums.h.
 *
 * scratch: the queries, of int8 packed, of int16 as words; for each key six words, the scores and then the numerators; the keys
 * and, transposed, the values, half their range (128 or 32768) added to each. */
#ifndef PICOFORMER_PACKED_ATTENTION_H
#define PICOFORMER_PACKED_ATTENTION_H

#include "picoformer/kernels.h"
#include "picoformer/packed_sums.h"

#define PF_KEY_BITS_s8  8
#define PF_KEY_BITS_s16 16

/* What a head of queries, keys and values of one type takes. */
#define PF_DEFINE_SIX_QUERIES(IN, WORD)                                                                                          \
    PF_DEFINE_DOT_SIX_FOR(IN)                                                                                                    \
    PF_DEFINE_SIX_KEYS(IN, WORD)                                                                                                 \
    PF_DEFINE_SCORES_##IN()

/* Rows of keys `columns` words apart, and columns of values `length` apart; what fills them up meets zeros only. */
#define PF_DEFINE_SIX_KEYS(IN, WORD)                                                                                             \
    typedef WORD pf_key_##IN;                                                                                                    \
    static inline WORD pf_raised_##IN(PF_TYPE_##IN x, int32_t drop) {                                                            \
        return (WORD)(pf_narrow(x, drop) + (1 << (PF_KEY_BITS_##IN - 1)));                                                       \
    }                                                                                                                            \
                                                                                                                                 \
    static void pf_copy_keys_##IN(const pf_attention_head *head, const PF_TYPE_##IN *x, int32_t keys, WORD *rows,                \
                                  int32_t columns) {                                                                             \
        for (int32_t i = 0; i < keys; i++, x += head->key_stride, rows += columns) {                                             \
            for (int32_t j = 0; j < head->head_size; j++) {                                                                      \
                rows[j] = pf_raised_##IN(x[j], head->key_drop);                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }                                                                                                                            \
                                                                                                                                 \
    static void pf_copy_values_##IN(const pf_attention_head *head, const PF_TYPE_##IN *x, int32_t keys, WORD *columns,           \
                                    int32_t length) {                                                                            \
        for (int32_t j = 0; j < head->value_size; j++, columns += length) {                                                      \
            const PF_TYPE_##IN *from = x + j;                                                                                    \
            for (int32_t i = 0; i < keys; i++, from += head->value_stride) {                                                     \
                columns[i] = pf_raised_##IN(*from, head->value_drop);                                                            \
            }                                                                                                                    \
        }                                                                                                                        \
    }

/* Six queries arranged, and their scores with each key, `columns` words apart. Sums of products of which both may be -128 may
 * reach 2^20, one too many for pf_add_unpacked: pf_pack_six lowers them, all of a query alike, and only their differences count.
 */
#define PF_DEFINE_SCORES_s8()                                                                                                    \
    PF_DEFINE_PACKED_ROW()                                                                                                       \
    static inline int32_t pf_query_words_s8(int32_t size) {                                                                      \
        return pf_packed_words(size);                                                                                            \
    }                                                                                                                            \
                                                                                                                                 \
    static void pf_scores_s8(const pf_attention_head *head, const int8_t *q, int32_t rows, const uint8_t *keys, int32_t count,   \
                             int32_t columns, uint32_t *a, int32_t *scores) {                                                    \
        pf_pack_six(q, head->query_stride, rows, head->head_size, 1u, a);                                                        \
        for (int32_t i = 0; i < count; i += PF_WEIGHT_ROWS) {                                                                    \
            for (int32_t c = 0; c < PF_PACKED_ROWS * PF_WEIGHT_ROWS; c++) {                                                      \
                scores[c] = 0;                                                                                                   \
            }                                                                                                                    \
            pf_packed_row(keys, i + PF_WEIGHT_ROWS <= count ? columns : 0, a, columns, scores);                                  \
            keys += PF_WEIGHT_ROWS * columns;                                                                                    \
            scores += PF_PACKED_ROWS * PF_WEIGHT_ROWS;                                                                           \
        }                                                                                                                        \
    }

#define PF_DEFINE_SCORES_s16()                                                                                                   \
    static inline int32_t pf_query_words_s16(int32_t size) {                                                                     \
        return PF_PACKED_ROWS * (1 + pf_packed_columns(size));                                                                   \
    }                                                                                                                            \
                                                                                                                                 \
    static void pf_scores_s16(const pf_attention_head *head, const int16_t *q, int32_t rows, const uint16_t *keys,               \
                              int32_t count, int32_t columns, uint32_t *a, int32_t *scores) {                                    \
        pf_six_words(q, head->query_stride, rows, head->head_size, head->query_drop, 15, a);                                     \
        for (int32_t i = 0; i < count; i += PF_WEIGHT_ROWS) {                                                                    \
            for (int32_t c = 0; c < PF_PACKED_ROWS * PF_WEIGHT_ROWS; c++) {                                                      \
                scores[c] = (int32_t)a[c % PF_PACKED_ROWS];                                                                      \
            }                                                                                                                    \
            pf_dot_six_s16(keys, i + PF_WEIGHT_ROWS <= count ? columns : 0, (const int32_t *)a + PF_PACKED_ROWS, columns,        \
                           scores);                                                                                              \
            keys += PF_WEIGHT_ROWS * columns;                                                                                    \
            scores += PF_PACKED_ROWS * PF_WEIGHT_ROWS;                                                                           \
        }                                                                                                                        \
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
        const uint32_t numerator = pf_numerator(table, (uint32_t)top - (uint32_t)*p, multiplier, shift);
        *p = (int32_t)numerator;
        total += numerator;
    }
    for (int32_t j = count; j < length; j++, p += PF_PACKED_ROWS) {
        *p = 0;
    }
    return total;
}

#define PF_DEFINE_PACKED_HEAD(IN, OUT)                                                                                           \
    void pf_attention_head_##IN##_##OUT(const pf_attention_head *head, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k,             \
                                        const PF_TYPE_##IN *v, PF_TYPE_##OUT *y, int32_t queries, int32_t keys,                  \
                                        int32_t *scratch) {                                                                      \
        const int32_t columns = pf_packed_columns(head->head_size), length = pf_packed_columns(keys);                            \
        uint32_t *const arranged = (uint32_t *)scratch;                                                                          \
        int32_t *const scores = scratch + pf_query_words_##IN(head->head_size);                                                  \
        pf_key_##IN *const k_rows = (pf_key_##IN *)(scores + PF_PACKED_ROWS * length), *const v_columns =                        \
                                                                                           k_rows + keys * columns;              \
        if (!head->same_keys) {                                                                                                  \
            pf_copy_keys_##IN(head, k, keys, k_rows, columns);                                                                   \
            pf_copy_values_##IN(head, v, keys, v_columns, length);                                                               \
        }                                                                                                                        \
        for (int32_t i = 0; i < queries; i += PF_PACKED_ROWS) {                                                                  \
            const int32_t rows = queries - i < PF_PACKED_ROWS ? queries - i : PF_PACKED_ROWS;                                    \
            const int32_t seen = keys - head->first_keys > i + rows - 1 ? head->first_keys + i + rows - 1 : keys;                \
            const int32_t turns = pf_packed_columns(seen);                                                                       \
            pf_factor factors[PF_PACKED_ROWS];                                                                                   \
            int32_t starts[PF_PACKED_ROWS];                                                                                      \
            pf_scores_##IN(head, q, rows, k_rows, seen, columns, arranged, scores);                                              \
            for (int32_t r = 0; r < PF_PACKED_ROWS; r++) {                                                                       \
                const int32_t row = r < rows ? r : rows - 1;                                                                     \
                const int32_t count = keys - head->first_keys > i + row ? head->first_keys + i + row : keys;                     \
                const uint32_t total = pf_packed_numerators(head, scores + r, count, turns);                                     \
                factors[r] = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total);                            \
                starts[r] = (int32_t)(0u - (total << (PF_KEY_BITS_##IN - 1)));                                                   \
            }                                                                                                                    \
            for (int32_t d = 0; d < head->value_size; d += PF_WEIGHT_ROWS) {                                                     \
                const int32_t count = head->value_size - d < PF_WEIGHT_ROWS ? 1 : PF_WEIGHT_ROWS;                                \
                int32_t sums[PF_PACKED_ROWS * PF_WEIGHT_ROWS];                                                                   \
                for (int32_t c = 0; c < PF_PACKED_ROWS * PF_WEIGHT_ROWS; c++) {                                                  \
                    sums[c] = starts[c % PF_PACKED_ROWS];                                                                        \
                }                                                                                                                \
                pf_dot_six_##IN(v_columns + d * length, count == PF_WEIGHT_ROWS ? length : 0, scores, turns, sums);              \
                for (int32_t c = 0; c < count; c++) {                                                                            \
                    PF_TYPE_##OUT *to = y + d + c;                                                                               \
                    for (int32_t r = 0; r < rows; r++, to += head->output_stride) {                                              \
                        const int32_t sum = sums[PF_PACKED_ROWS * c + r];                                                        \
                        const int32_t value = pf_rescale_far(sum, factors[r].multiplier, factors[r].shift);                      \
                        *to = PF_SATURATE(OUT, value);                                                                           \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
            q += PF_PACKED_ROWS * head->query_stride;                                                                            \
            y += PF_PACKED_ROWS * head->output_stride;                                                                           \
        }                                                                                                                        \
    }

#endif
