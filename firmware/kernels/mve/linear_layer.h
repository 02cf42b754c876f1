/* A whole linear layer for MVE, whatever its weights are packed as: its rows, its groups of outputs, its activation. */
#ifndef PF_MVE_LINEAR_LAYER_H
#define PF_MVE_LINEAR_LAYER_H

#include "picoformer/linear_output.h"

#include "filled_rows.h"
#include "linear_group.h"
#include "lookup.h"

DEFINE_TABLE_s8(static, look_up_s8) DEFINE_TABLE_s16(static, look_up_s16, s16, LOAD_INDEX_s16)
    DEFINE_INTERPOLATE(static, interpolate, s16)

/* Rows whose outputs of one group are kept as int16 until their activation is known. */
#define KEPT 8

    /* An activation of results that y has room for comes after the layer, in place. */
    static inline void activate_s8(const void *table, int32_t entries, int8_t *y, int32_t count) {
    if (entries == 256) {
        look_up_s8(table, y, y, count);
    }
}
static inline void activate_s16(const void *table, int32_t entries, int16_t *y, int32_t count) {
    if (entries == 256) {
        look_up_s16(table, y, y, count);
    } else if (entries == 513) {
        interpolate(table, y, y, count);
    }
}

/* Results of 16 bits whose activation has 8: kept a few rows at a time. `row`: bytes of a row of x. */
__attribute__((noinline)) static void interpolated_s8(group g, void (*loop)(const group *), const int16_t *table, int32_t row) {
    const uint8_t *x = g.x, *const end = g.x_end;
    int8_t *y = g.y;
    int16_t kept[KEPT * GROUP];
    const int32_t step = g.y_step;
    const mve_pred16_t there = vctp16q((uint32_t)g.count);
    g.y_step = GROUP * 2;
    g.count = GROUP;
    g.y = kept;
    for (int32_t rows; x != end; x += rows * row) {
        rows = (int32_t)(end - x) / row;
        rows = rows < KEPT ? rows : KEPT;
        g.x = x;
        g.x_end = x + rows * row;
        loop(&g);
        interpolate(table, kept, kept, rows * GROUP);
        for (int32_t r = 0; r < rows; r++, y += step) {
            const int16x8_t eight = vld1q_s16(kept + r * GROUP);
            vstrbq_p_s16(y, vreinterpretq_s16_s8(vqmovnbq_s16(vdupq_n_s8(0), eight)), there);
        }
    }
}

#define IS_FAR_s8(ENTRIES)  ((ENTRIES) == 513)
#define IS_FAR_s16(ENTRIES) 0

/* WEIGHT_VECTORS: vectors that a group of weights takes in the scratch for each of a row. WEIGHTS(p, i, vectors, scratch): the
 * group of rows from i on. Rows of x that are no whole vectors go through the scratch, a block of them at a time. Where a sum
 * may pass 32 bits when shifted left, it is rescaled by a 64-bit product. */
#define DEFINE_LINEAR(STORAGE, SYMBOL, PARAMETERS, IN, OUT, WEIGHT_VECTORS, WEIGHTS)                                             \
    __attribute__((noinline)) static void exact_##OUT(const group *g, const PARAMETERS *p, const PF_TYPE_##IN *x, int32_t row,   \
                                                      PF_TYPE_##OUT *y, int32_t i, int32_t rows) {                               \
        const int32_t entries = IS_FAR_##OUT(p->entries) || PF_IS_RESIDUAL_##OUT(p->entries) ? p->entries : 0;                   \
        for (int32_t r = 0; r < rows; r++, x += row, y += p->n) {                                                                \
            for (int32_t c = 0; c < g->count; c++) {                                                                             \
                const int32_t value = p->zero_point + pf_rescale(sum_##IN(g, x, c), pf_multiplier(p->factor[i + c]), p->shift);  \
                y[i + c] = pf_linear_##OUT(p->table, entries, y[i + c], value);                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }                                                                                                                            \
    STORAGE void SYMBOL(const PARAMETERS *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {             \
        const int32_t n = p->n, k = p->k, lanes = 16 / (int32_t)sizeof *x, vectors = (k + lanes - 1) / lanes;                    \
        const int32_t left = 32 - p->shift, row = vectors * lanes;                                                               \
        PF_TYPE_##IN *const filled = (PF_TYPE_##IN *)scratch + WEIGHT_VECTORS * row;                                             \
        group g = {.pieces = (vectors >> 2) - 1,                                                                                 \
                   .start = start_of(vectors),                                                                                   \
                   .y_step = n * (int32_t)sizeof *y,                                                                             \
                   .zero_point = p->zero_point,                                                                                  \
                   .left = {left, left, left, left},                                                                             \
                   .adds = PF_IS_RESIDUAL_##OUT(p->entries)};                                                                    \
        for (int32_t count; rows > 0; rows -= count, x += count * k, y += count * n) {                                           \
            const PF_TYPE_##IN *from = x;                                                                                        \
            count = rows;                                                                                                        \
            if (p->block > 0) {                                                                                                  \
                count = rows < p->block ? rows : p->block;                                                                       \
                fill_strided_##IN(x, k, filled, count, k);                                                                       \
                from = filled;                                                                                                   \
            }                                                                                                                    \
            for (int32_t i = 0; i < n; i += GROUP) {                                                                             \
                g.w = WEIGHTS(p, i, vectors, scratch);                                                                           \
                set_outputs(&g, p->bias + i, p->factor + i, n - i);                                                              \
                g.x = from;                                                                                                      \
                g.x_end = from + count * row;                                                                                    \
                g.y = y + i;                                                                                                     \
                if (left > p->headroom) {                                                                                        \
                    exact_##OUT(&g, p, from, row, y, i, count);                                                                  \
                } else if (IS_FAR_##OUT(p->entries)) {                                                                           \
                    interpolated_s8(g, group_s16, p->table, row *(int32_t)sizeof *x);                                            \
                } else {                                                                                                         \
                    group_##OUT(&g);                                                                                             \
                }                                                                                                                \
            }                                                                                                                    \
            activate_##OUT(p->table, p->entries, y, count *n);                                                                   \
        }                                                                                                                        \
    }

#endif
