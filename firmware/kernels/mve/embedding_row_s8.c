/* A row of an embedding's table of int8, which lies as the weights of a linear layer on int16 do: eight rows at a time, eight
 * bytes a vector, four vectors of each row in turn, the vectors that are left over first. So a table that is the head's
 * weight too is there once. */
#include "picoformer/kernels.h"

enum { ROWS = 8, LANES = 8, TURN = 4 };

const int8_t *pf_embedding_row_s8(const pf_embedding *p, int32_t row, int32_t first, int32_t count, int8_t *room) {
    const int32_t vectors = (p->width + LANES - 1) / LANES, early = vectors % TURN, in_group = row % ROWS;
    const int8_t *group = p->table + row / ROWS * (ROWS * LANES * vectors);
    for (int32_t i = 0; i < count; i++) {
        const int32_t at = first + i, vector = at / LANES, lane = at % LANES;
        int32_t place;
        if (vector < early) {
            place = in_group * early + vector;
        } else {
            const int32_t later = vector - early;
            place = ROWS * early + later / TURN * (ROWS * TURN) + in_group * TURN + later % TURN;
        }
        room[i] = group[place * LANES + lane];
    }
    return room;
}
