/* Linear layers on int16 activations row by row for SMLALD: sums of 64 bits, or of 32 where there is one row anyway. */
#include "linear_vector.h"

#include "picoformer/ops.h"

#define DEFINE_LINEAR_WIDE(OUT)                                                                                                  \
    void pf_linear_wide_s16_##OUT(const pf_linear *p, const int16_t *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {         \
        const pf_dsp_layer layer = {.out_bytes = (int32_t)sizeof *y,                                                             \
                                    .weight = p->weight,                                                                         \
                                    .bias = p->bias,                                                                             \
                                    .factor = p->factor,                                                                         \
                                    .table = p->table,                                                                           \
                                    .entries = p->entries,                                                                       \
                                    .n = p->n,                                                                                   \
                                    .k = p->k,                                                                                   \
                                    .shift = p->shift,                                                                           \
                                    .zero_point = p->zero_point,                                                                 \
                                    .headroom = p->headroom};                                                                    \
        for (int32_t r = 0; r < rows; r++, x += p->k, y += p->n) {                                                               \
            pf_dsp_vector_joined(&layer, x, y, scratch, 1);                                                                      \
        }                                                                                                                        \
    }

DEFINE_LINEAR_WIDE(s8)
DEFINE_LINEAR_WIDE(s16)
