/* A linear layer for SMLAD, whatever its weights are packed as: what linear_strip.c does with widened rows of both. */
#ifndef PF_DSP_LINEAR_STRIP_H
#define PF_DSP_LINEAR_STRIP_H

#include <stdint.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* What a type of layer brings along: pf_linear and pf_linear_s4 differ in their weights only. */
typedef struct pf_dsp_layer {
    /* Rows i and i + second of the weight into quad layout (products.h). */
    void (*widen)(const void *parameters, int32_t i, int32_t second, uint32_t *w, int32_t words);
    /* `count` elements of two rows of x into quad layout, filled up with zeros. */
    void (*arrange)(const void *first, const void *second, uint32_t *a, int32_t count);
    int32_t in_bytes, out_bytes;
    const void *parameters;
    const int32_t *bias, *multiplier;
    const void *table;
    int32_t entries, n, k, shift, zero_point, headroom, block;
} pf_dsp_layer;

void pf_dsp_linear(const pf_dsp_layer *layer, const void *x, void *y, int32_t rows, void *scratch);

#define DEFINE_LINEAR(SYMBOL, PARAMETERS, WIDEN, IN, ARRANGE, OUT)                                                               \
    void SYMBOL(const PARAMETERS *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                     \
        const pf_dsp_layer layer = {WIDEN,         ARRANGE,  (int32_t)sizeof *x, (int32_t)sizeof *y, p,                          \
                                    p->bias,       p->multiplier, p->table, p->entries, p->n,                                    \
                                    p->k,          p->shift, p->zero_point, p->headroom, p->block};                              \
        pf_dsp_linear(&layer, x, y, rows, scratch);                                                                              \
    }

#endif
