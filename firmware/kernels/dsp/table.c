/* A function of one int8 number as a table of all its values: four to a turn of the loop. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* One after another: y may be x, and so the compiler joins no stores, which would cost more than it saves. */
#define DEFINE_TABLE(OUT)                                                                                                        \
    void pf_table_s8_##OUT(const PF_TYPE_##OUT *table, const int8_t *x, PF_TYPE_##OUT *y, int32_t count) {                       \
        const PF_TYPE_##OUT *middle = table + 128;                                                                               \
        for (; count >= 4; count -= 4, x += 4, y += 4) {                                                                         \
            y[0] = middle[x[0]];                                                                                                 \
            y[1] = middle[x[1]];                                                                                                 \
            y[2] = middle[x[2]];                                                                                                 \
            y[3] = middle[x[3]];                                                                                                 \
        }                                                                                                                        \
        for (; count > 0; count--) {                                                                                             \
            *y++ = middle[*x++];                                                                                                 \
        }                                                                                                                        \
    }

DEFINE_TABLE(s8)
DEFINE_TABLE(s16)
