/* The score of a token: int16 logits with 8 bits more, float ones rounded to 2^-18, all without floating point. */
#ifndef PICOFORMER_TEXT_SCORES_H
#define PICOFORMER_TEXT_SCORES_H

#include <string.h>

#include "picoformer/generate.h"

#define PF_INT16_BITS  8
#define PF_SCORE_LIMIT 0x40000000

/* round(x * 2^18), ties up, within +-2^30, of the bits of a float; a NaN is the lowest. x = mantissa * 2^(exponent - 150). */
static inline int32_t pf_float_score(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    const int32_t is_negative = (bits >> 31) != 0, exponent = (int32_t)(magnitude >> 23);
    if (magnitude >= 0x45800000u) { /* 4096, infinities and NaNs */
        return is_negative || magnitude > 0x7F800000u ? -PF_SCORE_LIMIT : PF_SCORE_LIMIT;
    }
    if (exponent < 108) { /* below half a unit */
        return 0;
    }
    const int32_t mantissa = (int32_t)((magnitude & 0x7FFFFFu) | 0x800000u), shift = 132 - exponent;
    const int32_t value = is_negative ? -mantissa : mantissa;
    return shift > 0 ? (value + ((int32_t)1 << (shift - 1))) >> shift : value * ((int32_t)1 << -shift);
}

static inline uint32_t pf_float_bits(const pf_logits *logits, int32_t i) {
    uint32_t bits;
    memcpy(&bits, (const uint8_t *)logits->values + 4 * (uint32_t)i, 4);
    return bits;
}

static inline int32_t pf_score(const pf_logits *logits, int32_t i) {
    return logits->is_float ? pf_float_score(pf_float_bits(logits, i))
                            : ((const int16_t *)logits->values)[i] * (1 << PF_INT16_BITS);
}

static inline int32_t pf_exponent_is_valid(const pf_exponent *e) {
    return e->multiplier >= 0x40000000u && e->multiplier < 0x80000000u && e->shift >= 1 && e->shift <= 62 &&
           e->reach <= 0x80000000u &&
           (((uint64_t)e->reach * e->multiplier + ((uint64_t)1 << (e->shift - 1))) >> e->shift) >> 22 == 0;
}

#endif
