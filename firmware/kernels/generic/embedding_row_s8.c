/* A row of an embedding's table of int8: row by row, as it is. */
#include "picoformer/kernels.h"

const int8_t *pf_embedding_row_s8(const pf_embedding *p, int32_t row, int32_t first, int32_t count, int8_t *room) {
    (void)count;
    (void)room;
    return p->table + row * p->width + first;
}
