/* The end of a linear layer: what a rescaled sum becomes, with an activation behind it or without. */
#ifndef PICOFORMER_LINEAR_OUTPUT_H
#define PICOFORMER_LINEAR_OUTPUT_H

#include <stdint.h>

#include "picoformer/fixedpoint.h"

/* The straight line between two of 513 table entries, 128 apart, before it is limited to the output's type. */
static inline int32_t pf_interpolated(const int16_t *table, int16_t x) {
    const int32_t position = x + 32768;
    const int16_t *entry = table + (position >> 7);
    const int32_t rise = (entry[1] - entry[0]) * (position & 127);
    return entry[0] + ((rise + 64) >> 7);
}

/* table, entries: those of pf_linear; value: the rescaled sum and the zero point. */
#define PF_DEFINE_LINEAR_OUTPUT(OUT)                                                                                             \
    static inline PF_TYPE_##OUT pf_linear_##OUT(const void *table, int32_t entries, int32_t value) {                             \
        if (entries == 0) {                                                                                                      \
            return PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
        if (entries == 256) {                                                                                                    \
            return ((const PF_TYPE_##OUT *)table)[PF_SATURATE(s8, value) + 128];                                                 \
        }                                                                                                                        \
        const int32_t line = pf_interpolated((const int16_t *)table, PF_SATURATE(s16, value));                                   \
        return PF_SATURATE(OUT, line);                                                                                           \
    }

PF_DEFINE_LINEAR_OUTPUT(s8)
PF_DEFINE_LINEAR_OUTPUT(s16)

#endif
