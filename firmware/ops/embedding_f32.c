/* Embedding in float: rows of a table picked by ids. */
#include <string.h>

#include "picoformer/ops.h"

int pf_embedding_f32(const pf_embedding_f32_params *p, const int32_t *ids, float *y, int32_t count) {
    for (int32_t i = 0; i < count; i++, y += p->width) {
        if (ids[i] < 0 || ids[i] >= p->rows) {
            return PF_ERROR_INDEX;
        }
        memcpy(y, p->table + ids[i] * p->width, (size_t)p->width * sizeof *y);
    }
    return PF_OK;
}
