/* A linear layer on packed rows of int8, whatever the core's inner loop: an instruction set's directory defines that first, as
 * pf_packed_dot, with PF_WEIGHT_ROWS, the rows of weights it takes at a time:
 *     void pf_packed_dot(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t count, uint32_t *sums)
 *     for (r = 0; r < PF_WEIGHT_ROWS; r++)
 *         for (c = 0; c < 4; c++)
 *             sums[4 * r + c] = a[c] + sum of w[stride * r + j] * a[4 + 4 * j + c] over j < count
 * where count is a multiple of PF_PACKED_TURN. */
#ifndef PICOFORMER_PACKED_LINEAR_H
#define PICOFORMER_PACKED_LINEAR_H

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"
#include "picoformer/packed_sums.h"

/* Adds to sums[r][0..5] the products of rows of weights with six packed rows. */
static void pf_packed_products(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t columns, int32_t *sums) {
    uint32_t words[4 * PF_WEIGHT_ROWS];
    for (int32_t count; columns > 0; columns -= count, w += count, a += 4 * (count + 1)) {
        count = columns < PF_PACKED_CHUNK ? columns : PF_PACKED_CHUNK;
        pf_packed_dot(w, stride, a, count, words);
        for (int32_t r = 0; r < 2 * PF_WEIGHT_ROWS; r++) {
            pf_add_unpacked(words[2 * r], words[2 * r + 1], sums + 3 * r);
        }
    }
}

/* The same for a single row of numbers as it is. */
static int32_t pf_single_products(const uint8_t *w, const int8_t *x, int32_t k) {
    int32_t sum = 0, total = 0, j = 0;
    for (; j + 4 <= k; j += 4) {
        sum += w[j] * x[j] + w[j + 1] * x[j + 1] + w[j + 2] * x[j + 2] + w[j + 3] * x[j + 3];
        total += x[j] + x[j + 1] + x[j + 2] + x[j + 3];
    }
    for (; j < k; j++) {
        sum += w[j] * x[j];
        total += x[j];
    }
    return sum - total * 128;
}

/* Outputs of one row of weights, `n` elements apart. A sum is shifted left for its rounded high word where it was proven to fit.
 */
#define PF_DEFINE_FINISH(PARAMETERS, NAME, OUT)                                                                                  \
    static void NAME(const PARAMETERS *p, int32_t i, const int32_t *sums, PF_TYPE_##OUT *y, int32_t count) {                     \
        const int32_t multiplier = p->multiplier[i], shift = p->shift, zero_point = p->zero_point, n = p->n;                     \
        const int32_t left = 32 - shift;                                                                                         \
        if (left <= p->headroom) {                                                                                               \
            for (int32_t c = 0; c < count; c++, y += n) {                                                                        \
                const int32_t value = zero_point + pf_rounded_high((int32_t)((uint32_t)sums[c] << left), multiplier);            \
                *y = PF_SATURATE(OUT, value);                                                                                    \
            }                                                                                                                    \
            return;                                                                                                              \
        }                                                                                                                        \
        for (int32_t c = 0; c < count; c++, y += n) {                                                                            \
            const int32_t value = zero_point + pf_rescale(sums[c], multiplier, shift);                                           \
            *y = PF_SATURATE(OUT, value);                                                                                        \
        }                                                                                                                        \
    }

/* WEIGHTS(p, i, count, w, columns): rows i ... i + count - 1 of the weights, `columns` bytes each; w is room for them. */
#define PF_DEFINE_PACKED_LINEAR(SYMBOL, PARAMETERS, WEIGHTS, OUT)                                                                \
    PF_DEFINE_FINISH(PARAMETERS, SYMBOL##_finish, OUT)                                                                           \
    void SYMBOL(const PARAMETERS *p, const int8_t *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                           \
        const int32_t n = p->n, k = p->k, columns = pf_packed_columns(k), words = pf_packed_words(k);                            \
        uint32_t *const a = scratch;                                                                                             \
        for (int32_t block; rows > 0; rows -= block, x += block * k, y += block * n) {                                           \
            block = rows < p->block ? rows : p->block;                                                                           \
            const int32_t groups = block > 1 ? (block + PF_PACKED_ROWS - 1) / PF_PACKED_ROWS : 0;                                \
            for (int32_t g = 0; g < groups; g++) {                                                                               \
                pf_pack_six(x + g * PF_PACKED_ROWS * k, k, block - g * PF_PACKED_ROWS, k, 0u, a + g * words);                    \
            }                                                                                                                    \
            for (int32_t i = 0; i < n; i += PF_WEIGHT_ROWS) {                                                                    \
                const int32_t count = n - i < PF_WEIGHT_ROWS ? n - i : PF_WEIGHT_ROWS;                                           \
                const uint8_t *const w = WEIGHTS(p, i, count, (uint8_t *)(a + groups * words), columns);                         \
                for (int32_t r = 0; r < count && groups == 0; r++) {                                                             \
                    const int32_t sum = p->bias[i + r] + pf_single_products(w + r * columns, x, k);                              \
                    SYMBOL##_finish(p, i + r, &sum, y + i + r, 1);                                                               \
                }                                                                                                                \
                for (int32_t g = 0, left = block; g < groups; g++, left -= PF_PACKED_ROWS) {                                     \
                    int32_t sums[PF_PACKED_ROWS * PF_WEIGHT_ROWS];                                                               \
                    for (int32_t c = 0; c < PF_PACKED_ROWS * PF_WEIGHT_ROWS; c++) {                                              \
                        sums[c] = p->bias[c < PF_PACKED_ROWS * count ? i + c / PF_PACKED_ROWS : i];                              \
                    }                                                                                                            \
                    pf_packed_products(w, count > 1 ? columns : 0, a + g * words, columns, sums);                                \
                    for (int32_t r = 0; r < count; r++) {                                                                        \
                        SYMBOL##_finish(p, i + r, sums + PF_PACKED_ROWS * r, y + (block - left) * n + i + r,                     \
                                        left < PF_PACKED_ROWS ? left : PF_PACKED_ROWS);                                          \
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

#endif
