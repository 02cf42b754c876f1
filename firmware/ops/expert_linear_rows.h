/* Linear layers of experts for any types: row by row with the weight of the row's expert. */
#ifndef PF_EXPERT_LINEAR_ROWS_H
#define PF_EXPERT_LINEAR_ROWS_H

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* BLOCKS: a statement that moves `own.block_multiplier` to the expert e, where there are any. */
#define PF_DEFINE_EXPERT_LINEAR(NAME, PARAMS, IN, OUT, BLOCKS)                                                                   \
    int pf_expert_linear_##NAME##IN##_##OUT(const pf_experts *p, const PARAMS *linear, const PF_TYPE_##IN *x,                    \
                                            const int32_t *ids, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                 \
        const int32_t n = linear->n, k = linear->k;                                                                              \
        ids += p->slot;                                                                                                          \
        for (int32_t r = 0; r < rows; r++, x += k, y += n, ids += p->chosen) {                                                   \
            const int32_t e = *ids;                                                                                              \
            if (e < 0 || e >= p->experts) {                                                                                      \
                return PF_ERROR_INDEX;                                                                                           \
            }                                                                                                                    \
            PARAMS own = *linear;                                                                                                \
            own.weight += e * p->weight_bytes;                                                                                   \
            own.bias += e * n;                                                                                                   \
            own.factor += e * n;                                                                                                 \
            BLOCKS                                                                                                               \
            pf_linear_##NAME##IN##_##OUT(&own, x, y, 1, scratch);                                                                \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

#define PF_EXPERT_BLOCKS                                                                                                         \
    if (own.block_multiplier != 0) {                                                                                             \
        own.block_multiplier += e * n * ((k + 31) / 32);                                                                         \
    }

#endif
