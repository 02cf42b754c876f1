/* A row of an embedding's table of int8 that lies as the weights of word/, armv6m/ and armv7m/ do: row by row, 128 added, rows
 * filled up to 8. So a table that is the head's weight too is there once. */
#ifndef PICOFORMER_PACKED_TABLE_H
#define PICOFORMER_PACKED_TABLE_H

#include "picoformer/kernels.h"

static inline const int8_t *pf_packed_table_row(const pf_embedding *p, int32_t row, int32_t first, int32_t count, int8_t *room) {
    const uint8_t *from = (const uint8_t *)p->table + row * ((p->width + 7) / 8 * 8) + first;
    for (int32_t i = 0; i < count; i++) {
        room[i] = (int8_t)(from[i] - 128);
    }
    return room;
}

#endif
