/* The rows of a decoder's block: their positions, and the last real one. */
#include <string.h>

#include "picoformer/ops.h"

void pf_position_ids(int32_t *y, int32_t position, int32_t rows) {
    for (int32_t i = 0; i < rows; i++) {
        y[i] = position + i;
    }
}

int pf_take_row(void *y, const void *x, int32_t count, int32_t rows, int32_t bytes) {
    if (count < 1 || count > rows) {
        return PF_ERROR_INDEX;
    }
    memcpy(y, (const uint8_t *)x + (count - 1) * bytes, (size_t)bytes);
    return PF_OK;
}
