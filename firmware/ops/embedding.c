/* Embedding: rows of a table picked by ids, each brought from its own scale to the one of the output. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

enum { PIECE = 32 }; /* elements of a row that are unpacked at a time */

#define DEFINE_EMBEDDING(SYMBOL, PARAMS, TABLE, OUT)                                                                             \
    int SYMBOL(const PARAMS *p, const int32_t *ids, PF_TYPE_##OUT *y, int32_t count) {                                           \
        pf_requantize row = {.shift = p->shift, .zero_point = p->zero_point};                                                    \
        for (int32_t i = 0; i < count; i++, y += p->width) {                                                                     \
            const int32_t id = ids[i];                                                                                           \
            if (id < 0 || id >= p->rows) {                                                                                       \
                return PF_ERROR_INDEX;                                                                                           \
            }                                                                                                                    \
            row.multiplier = p->multiplier[id];                                                                                  \
            PF_ROW_##TABLE(TABLE, OUT)                                                                                           \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

#define PF_ROW_s8(TABLE, OUT)                                                                                                    \
    for (int32_t at = 0; at < p->width; at += PIECE) {                                                                           \
        int8_t room[PIECE];                                                                                                      \
        const int32_t length = p->width - at < PIECE ? p->width - at : PIECE;                                                    \
        pf_requantize_##TABLE##_##OUT(&row, pf_embedding_row_s8(p, id, at, length, room), y + at, length);                       \
    }
#define PF_ROW_s16(TABLE, OUT) pf_requantize_##TABLE##_##OUT(&row, p->table + id * p->width, y, p->width);

DEFINE_EMBEDDING(pf_embedding_s8, pf_embedding, s8, s8)
DEFINE_EMBEDDING(pf_embedding_s16, pf_embedding, s8, s16)
DEFINE_EMBEDDING(pf_embedding_s16_s8, pf_embedding_w16, s16, s8)
DEFINE_EMBEDDING(pf_embedding_s16_s16, pf_embedding_w16, s16, s16)
