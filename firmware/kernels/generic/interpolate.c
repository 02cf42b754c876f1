/* A function of one int16 number: a table of every 128th value, a straight line between two of them. */
#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

#define DEFINE_INTERPOLATE(OUT)                                                                                                  \
    void pf_interpolate_s16_##OUT(const int16_t *table, const int16_t *x, PF_TYPE_##OUT *y, int32_t count) {                     \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            const int32_t value = pf_interpolated(table, x[i]);                                                                  \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_INTERPOLATE(s8)
DEFINE_INTERPOLATE(s16)
