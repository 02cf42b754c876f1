/* A linear layer for SMLAD, whatever its weights are packed as: what linear_strip.c does with widened rows of both. */
#ifndef PF_DSP_LINEAR_STRIP_H
#define PF_DSP_LINEAR_STRIP_H

#include <stdint.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* pf_linear or pf_linear_s4 with what makes them one: how each is widened. */
typedef struct pf_dsp_layer {
    /* A pair of weight rows into quad layout (products.h). Called from assembly: r0 weight, r1 where to, r2 quads, r3 block
     * multipliers; r0, r1 and r3 come back moved on to the next pair, r2 and r4 to r12 changed. */
    void (*widen)(void);
    /* `count` elements of two rows of x into quad layout, filled up with zeros; or quads, where both rows begin at words. */
    void (*pair_any)(const void *first, const void *second, uint32_t *a, int32_t count);
    void (*pair_words)(const void *first, const void *second, uint32_t *a, int32_t quads);
    int32_t in_bytes, out_bytes;
    const void *weight;
    const uint8_t *block_multiplier;
    int32_t quad_bytes; /* of a pair of rows of the weight */
    const int32_t *bias;
    const uint16_t *factor;
    const void *table;
    int32_t entries, n, k, shift, zero_point, headroom, block;
    /* Up to so many rows are computed one by one, by a function of linear_vector.h: it takes fewer instructions then, and
     * code that only a model with single rows is given. */
    int32_t few_rows;
    void (*one_row)(const struct pf_dsp_layer *layer, const void *x, void *y, void *scratch);
} pf_dsp_layer;

/* From the stack pointer to how many bytes the block multipliers of the second row lie behind those of the first. */
#define PF_DSP_BLOCKS "60"

void pf_dsp_linear(const pf_dsp_layer *layer, const void *x, void *y, int32_t rows, void *scratch);

#define DEFINE_LINEAR(SYMBOL, PARAMETERS, WIDEN, MULTIPLIERS, QUAD_BYTES, IN, OUT, FEW_ROWS, ONE_ROW)                            \
    void SYMBOL(const PARAMETERS *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                     \
        const pf_dsp_layer layer = {                                                                                             \
            WIDEN,      pair_any_##IN, pair_words_##IN, (int32_t)sizeof *x, (int32_t)sizeof *y, p->weight, MULTIPLIERS,          \
            QUAD_BYTES, p->bias,       p->factor,       p->table,           p->entries,         p->n,      p->k,                 \
            p->shift,   p->zero_point, p->headroom,     p->block,           FEW_ROWS,           ONE_ROW};                        \
        pf_dsp_linear(&layer, x, y, rows, scratch);                                                                              \
    }

#endif
