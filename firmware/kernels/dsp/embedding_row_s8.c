/* A row of an embedding's table of int8, which lies as the weights of a linear layer on int16 do: rows in pairs, both in a
 * halfword, 256 * second + first. So a table that is the head's weight too is there once. */
#include "picoformer/kernels.h"

const int8_t *pf_embedding_row_s8(const pf_embedding *p, int32_t row, int32_t first, int32_t count, int8_t *room) {
    const int16_t *pair = (const int16_t *)(const void *)p->table + (row / 2) * ((p->width + 3) / 4 * 4) + first;
    if (row % 2 == 0) {
        for (int32_t i = 0; i < count; i++) {
            room[i] = (int8_t)(pair[i] & 0xFF);
        }
    } else { /* the first, where it is negative, took one from the byte above */
        for (int32_t i = 0; i < count; i++) {
            room[i] = (int8_t)((pair[i] + ((pair[i] & 0x80) << 1)) >> 8);
        }
    }
    return room;
}
