/* The end of a linear layer: what a rescaled sum becomes, by itself, with an activation, or added to a residual. */
#ifndef PICOFORMER_LINEAR_OUTPUT_H
#define PICOFORMER_LINEAR_OUTPUT_H

#include <stdint.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* The straight line between two of 513 table entries, 128 apart, before it is limited to the output's type. */
static inline int32_t pf_interpolated(const int16_t *table, int16_t x) {
    const int32_t position = x + 32768;
    const int16_t *entry = table + (position >> 7);
    const int32_t rise = (entry[1] - entry[0]) * (position & 127);
    return entry[0] + ((rise + 64) >> 7);
}

/* The multiplier that an element of `factor` stands for. */
static inline int32_t pf_multiplier(uint32_t factor) {
    return (int32_t)(factor << (factor & 15u));
}

/* A result and the residual that it is added to, limited. */
static inline int16_t pf_added_s16(int16_t before, int16_t result) {
    const int32_t sum = before + result;
    const int16_t kept = (int16_t)sum;
    return kept == sum ? kept : (int16_t)(sum < 0 ? PF_MIN_s16 : PF_MAX_s16);
}

/* Whether `entries` says so; residuals are of 16 bits. */
#define PF_IS_RESIDUAL_s8(ENTRIES)  0
#define PF_IS_RESIDUAL_s16(ENTRIES) ((ENTRIES) == PF_RESIDUAL)

/* table, entries: those of pf_linear; before: what y holds; value: the rescaled sum and the zero point. */
#define PF_DEFINE_LINEAR_OUTPUT(OUT)                                                                                             \
    static inline PF_TYPE_##OUT pf_linear_##OUT(const void *table, int32_t entries, PF_TYPE_##OUT before, int32_t value) {       \
        if (entries == 0) {                                                                                                      \
            return PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
        if (PF_IS_RESIDUAL_##OUT(entries)) {                                                                                     \
            return (PF_TYPE_##OUT)pf_added_s16(before, PF_SATURATE(s16, value));                                                 \
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
