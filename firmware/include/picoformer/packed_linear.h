/* Linear layers that take six rows of x at a time, whatever the core's inner loops (packed_sums.h). */
#ifndef PICOFORMER_PACKED_LINEAR_H
#define PICOFORMER_PACKED_LINEAR_H

#include "picoformer/linear_output.h"
#include "picoformer/ops.h"
#include "picoformer/packed_sums.h"

/* Six rows of int8 packed. */
static inline int32_t pf_six_words_s8(int32_t k) {
    return pf_packed_words(k);
}

static inline void pf_arrange_six_s8(const int8_t *x, int32_t rows, int32_t k, uint32_t *a) {
    pf_pack_six(x, k, rows, k, 0u, a);
}

/* Six rows of int16: words, behind what 128 too much in each weight amounts to. */
static inline int32_t pf_six_words_s16(int32_t k) {
    return PF_PACKED_ROWS * (1 + pf_packed_columns(k));
}

static inline void pf_arrange_six_s16(const int16_t *x, int32_t rows, int32_t k, uint32_t *a) {
    pf_six_words(x, k, rows, k, 0, 7, a);
}

/* All products of PF_WEIGHT_ROWS rows of weights with six rows, added to sums[r][0..5]: behind pf_packed_dot for int8, behind
 * PF_DEFINE_DOT_SIX_s8 for int16. */
#define PF_DEFINE_PRODUCTS(IN) PF_DEFINE_PRODUCTS_##IN() PF_DEFINE_SINGLE(IN)
#define PF_DEFINE_PRODUCTS_s8()                                                                                                  \
    PF_DEFINE_PACKED_ROW()                                                                                                       \
    static inline void pf_products_six_s8(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t k, int32_t *sums) {       \
        pf_packed_row(w, stride, a, pf_packed_columns(k), sums);                                                                 \
    }

#define PF_DEFINE_PRODUCTS_s16()                                                                                                 \
    PF_DEFINE_DOT_SIX_s8() static inline void pf_products_six_s16(const uint8_t *w, int32_t stride, const uint32_t *a,           \
                                                                  int32_t k, int32_t *sums) {                                    \
        for (int32_t c = 0; c < PF_PACKED_ROWS * PF_WEIGHT_ROWS; c++) {                                                          \
            sums[c] = (int32_t)((uint32_t)sums[c] + a[c % PF_PACKED_ROWS]);                                                      \
        }                                                                                                                        \
        pf_dot_six_s8(w, stride, (const int32_t *)a + PF_PACKED_ROWS, pf_packed_columns(k), sums);                               \
    }

/* A single row of x as it is. */
#define PF_DEFINE_SINGLE(IN)                                                                                                     \
    static inline int32_t pf_products_single_##IN(const uint8_t *w, const PF_TYPE_##IN *x, int32_t k) {                          \
        uint32_t sum = 0;                                                                                                        \
        int32_t total = 0;                                                                                                       \
        for (int32_t j = 0; j < k; j++) {                                                                                        \
            sum += (uint32_t)(w[j] * x[j]);                                                                                      \
            total += x[j];                                                                                                       \
        }                                                                                                                        \
        return (int32_t)(sum - ((uint32_t)total << 7));                                                                          \
    }

/* How many rows the next block has, `left` of `rows` being left: sixes, a single one, or all where they are fewer. */
static inline int32_t pf_block_rows(int32_t left, int32_t rows, int32_t most) {
    int32_t count = left > 1 ? PF_PACKED_ROWS : 1;
    while (count < left && count < most) {
        count += PF_PACKED_ROWS;
    }
    return count < rows ? count : rows;
}

/* WEIGHTS(p, i, count, room, columns): rows i ... i + count - 1 of the weights, `columns` bytes each. Groups of six
 * rows of x are full where there are enough of them: the last block reaches back to be so, or the last group of an only one;
 * `done` of its rows have their outputs then, which a residual must not get twice. */
#define PF_DEFINE_PACKED_LINEAR(SYMBOL, PARAMETERS, WEIGHTS, IN, OUT)                                                            \
    static void SYMBOL##_finish(const PARAMETERS *p, int32_t i, const int32_t *sums, PF_TYPE_##OUT *y, int32_t count,            \
                                int32_t done) {                                                                                  \
        const int32_t n = p->n, left = 32 - p->shift, is_proven = count == PF_PACKED_ROWS && left + 2 <= p->headroom;            \
        const pf_finish f = {pf_multiplier(p->factor[i]), left, p->zero_point};                                                  \
        if (is_proven && p->entries == 0) {                                                                                      \
            pf_finish_six_##OUT(sums, &f, y, n);                                                                                 \
        } else if (is_proven && p->entries == 256) {                                                                             \
            const PF_TYPE_##OUT *const middle = (const PF_TYPE_##OUT *)p->table + 128;                                           \
            int8_t results[PF_PACKED_ROWS];                                                                                      \
            pf_finish_six_s8(sums, &f, results, 1);                                                                              \
            for (int32_t c = 0; c < PF_PACKED_ROWS; c++, y += n) {                                                               \
                *y = middle[results[c]];                                                                                         \
            }                                                                                                                    \
        } else if (is_proven && PF_IS_RESIDUAL_##OUT(p->entries)) {                                                              \
            PF_TYPE_##OUT results[PF_PACKED_ROWS];                                                                               \
            pf_finish_six_##OUT(sums, &f, results, 1);                                                                           \
            y += done * n;                                                                                                       \
            for (int32_t c = done; c < PF_PACKED_ROWS; c++, y += n) {                                                            \
                *y = (PF_TYPE_##OUT)pf_added_s16(*y, results[c]);                                                                \
            }                                                                                                                    \
        } else {                                                                                                                 \
            y += done * n;                                                                                                       \
            for (int32_t c = done; c < count; c++, y += n) {                                                                     \
                const int32_t value = f.zero_point + pf_rescale(sums[c], f.multiplier, p->shift);                                \
                *y = pf_linear_##OUT(p->table, p->entries, *y, value);                                                           \
            }                                                                                                                    \
        }                                                                                                                        \
    }                                                                                                                            \
                                                                                                                                 \
    void SYMBOL(const PARAMETERS *p, const PF_TYPE_##IN *x_rows, PF_TYPE_##OUT *y_rows, int32_t rows, void *scratch) {           \
        const int32_t n = p->n, k = p->k, columns = pf_packed_columns(k), words = pf_six_words_##IN(k);                          \
        uint32_t *const a = scratch;                                                                                             \
        for (int32_t start = 0, block = 0; start < rows; start += block) {                                                       \
            block = pf_block_rows(rows - start, rows, p->block);                                                                 \
            const int32_t first = rows - start < block ? rows - block : start,                                                   \
                          last = block > PF_PACKED_ROWS ? block - PF_PACKED_ROWS : 0;                                            \
            const PF_TYPE_##IN *const x = x_rows + first * k;                                                                    \
            uint32_t *room = a;                                                                                                  \
            for (int32_t r = 0; r < block && block > 1; r += PF_PACKED_ROWS, room += words) {                                    \
                pf_arrange_six_##IN(x + (r < last ? r : last) * k, block, k, room);                                              \
            }                                                                                                                    \
            for (int32_t i = 0; i < n; i += PF_WEIGHT_ROWS) {                                                                    \
                const int32_t count = n - i < PF_WEIGHT_ROWS ? n - i : PF_WEIGHT_ROWS;                                           \
                const uint8_t *const w = WEIGHTS(p, i, count, (uint8_t *)room, columns);                                         \
                PF_TYPE_##OUT *const y = y_rows + first * n + i;                                                                 \
                if (block == 1) {                                                                                                \
                    for (int32_t c = 0; c < count; c++) {                                                                        \
                        const int32_t sum = p->bias[i + c] + pf_products_single_##IN(w + c * columns, x, k);                     \
                        SYMBOL##_finish(p, i + c, &sum, y + c, 1, 0);                                                            \
                    }                                                                                                            \
                    continue;                                                                                                    \
                }                                                                                                                \
                const uint32_t *group = a;                                                                                       \
                for (int32_t r = 0; r < block; r += PF_PACKED_ROWS, group += words) {                                            \
                    int32_t sums[PF_PACKED_ROWS * PF_WEIGHT_ROWS];                                                               \
                    for (int32_t c = 0; c < PF_WEIGHT_ROWS; c++) {                                                               \
                        const int32_t bias = p->bias[c < count ? i + c : i];                                                     \
                        int32_t *const six = sums + PF_PACKED_ROWS * c;                                                          \
                        six[0] = six[1] = six[2] = six[3] = six[4] = six[5] = bias;                                              \
                    }                                                                                                            \
                    const int32_t at = r < last ? r : last, before = first + r < start ? start - first : r,                      \
                                  done = before - at < PF_PACKED_ROWS ? before - at : PF_PACKED_ROWS;                            \
                    pf_products_six_##IN(w, count > 1 ? columns : 0, group, k, sums);                                            \
                    for (int32_t c = 0; c < count; c++) {                                                                        \
                        SYMBOL##_finish(p, i + c, sums + PF_PACKED_ROWS * c, y + at * n + c,                                     \
                                        block < PF_PACKED_ROWS ? block : PF_PACKED_ROWS, done);                                  \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

/* Int8 weights lie in memory as they are wanted. */
static inline const uint8_t *pf_stored_weights(const pf_linear *p, int32_t i, int32_t count, uint8_t *room, int32_t columns) {
    (void)count;
    (void)room;
    return (const uint8_t *)p->weight + i * columns;
}

/* Int4 weights are widened into the room, each times the multiplier of its block of 32, where there are any. */
static inline const uint8_t *pf_widened_weights(const pf_linear_s4 *p, int32_t i, int32_t count, uint8_t *room, int32_t columns) {
    const int32_t k = p->k, blocks = (k + 31) / 32;
    uint8_t *to = room;
    for (int32_t r = i; r < i + count; r++) {
        const uint8_t *packed = p->weight + r * ((k + 1) / 2);
        for (int32_t b = 0; b < blocks; b++) {
            const int32_t left = k - 32 * b, m = p->block_multiplier != 0 ? p->block_multiplier[r * blocks + b] : 1;
            for (int32_t j = 0; j < left && j < 32; j += 2, packed++, to += 2) {
                to[0] = (uint8_t)(((*packed & 15) ^ 8) * m + 128 - 8 * m);
                to[1] = (uint8_t)(((*packed >> 4) ^ 8) * m + 128 - 8 * m);
            }
        }
        to = room + (r - i + 1) * columns;
    }
    return room;
}

#endif
