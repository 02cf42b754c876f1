/* A function of one int16 number: a table of every 128th value, a straight line between two of them. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_INTERPOLATE(OUT)                                                                                                  \
    void pf_interpolate_s16_##OUT(const int16_t *table, const int16_t *x, PF_TYPE_##OUT *y, int32_t count) {                     \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            const int32_t position = x[i] + 32768;                                                                               \
            const int16_t *entry = table + (position >> 7);                                                                      \
            const int32_t rise = (entry[1] - entry[0]) * (position & 127);                                                       \
            const int32_t value = entry[0] + ((rise + 64) >> 7);                                                                 \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_INTERPOLATE(s8)
DEFINE_INTERPOLATE(s16)
