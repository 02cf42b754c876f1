/* A row of an embedding's table of int8: see picoformer/packed_table.h. */
#include "picoformer/packed_table.h"

const int8_t *pf_embedding_row_s8(const pf_embedding *p, int32_t row, int32_t first, int32_t count, int8_t *room) {
    return pf_packed_table_row(p, row, first, count, room);
}
