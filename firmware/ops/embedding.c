/* Embedding: rows of a table picked by ids, each brought from its own scale to the one of the output. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_EMBEDDING(OUT)                                                                                                    \
    int pf_embedding_##OUT(const pf_embedding *p, const int32_t *ids, PF_TYPE_##OUT *y, int32_t count) {                         \
        pf_requantize row = {.shift = p->shift, .zero_point = p->zero_point};                                                    \
        for (int32_t i = 0; i < count; i++, y += p->width) {                                                                     \
            const int32_t id = ids[i];                                                                                           \
            if (id < 0 || id >= p->rows) {                                                                                       \
                return PF_ERROR_INDEX;                                                                                           \
            }                                                                                                                    \
            row.multiplier = p->multiplier[id];                                                                                  \
            pf_requantize_s8_##OUT(&row, p->table + id * p->width, y, p->width);                                                 \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

DEFINE_EMBEDDING(s8)
DEFINE_EMBEDDING(s16)
