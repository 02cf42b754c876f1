/* Embedding: rows of a table picked by ids, each brought from its own scale to the one of the output. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_EMBEDDING(SYMBOL, PARAMS, TABLE, OUT)                                                                             \
    int SYMBOL(const PARAMS *p, const int32_t *ids, PF_TYPE_##OUT *y, int32_t count) {                                           \
        pf_requantize row = {.shift = p->shift, .zero_point = p->zero_point};                                                    \
        for (int32_t i = 0; i < count; i++, y += p->width) {                                                                     \
            const int32_t id = ids[i];                                                                                           \
            if (id < 0 || id >= p->rows) {                                                                                       \
                return PF_ERROR_INDEX;                                                                                           \
            }                                                                                                                    \
            row.multiplier = p->multiplier[id];                                                                                  \
            pf_requantize_##TABLE##_##OUT(&row, p->table + id * p->width, y, p->width);                                          \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

DEFINE_EMBEDDING(pf_embedding_s8, pf_embedding, s8, s8)
DEFINE_EMBEDDING(pf_embedding_s16, pf_embedding, s8, s16)
DEFINE_EMBEDDING(pf_embedding_s16_s8, pf_embedding_w16, s16, s8)
DEFINE_EMBEDDING(pf_embedding_s16_s16, pf_embedding_w16, s16, s16)
