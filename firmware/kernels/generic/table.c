/* A function of one int8 number as a table of all its values. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_TABLE(OUT)                                                                                                        \
    void pf_table_s8_##OUT(const PF_TYPE_##OUT *table, const int8_t *x, PF_TYPE_##OUT *y, int32_t count) {                       \
        const PF_TYPE_##OUT *middle = table + 128;                                                                               \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            y[i] = middle[x[i]];                                                                                                 \
        }                                                                                                                        \
    }

DEFINE_TABLE(s8)
DEFINE_TABLE(s16)
