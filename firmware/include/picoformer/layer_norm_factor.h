/* The factor of a row of a normalization: the same arithmetic for every instruction set. */
#ifndef PF_LAYER_NORM_FACTOR_H
#define PF_LAYER_NORM_FACTOR_H

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* mantissa * 2^-exponent / sqrt(variance), or 1 in place of a variance of 0; 2 <= shift <= 32. */
static inline pf_factor pf_norm_factor(int32_t mantissa, int32_t norm_exponent, uint64_t variance) {
    int32_t half_lead;
    const uint32_t y = pf_reciprocal_sqrt(variance > 0 ? variance : 1, &half_lead);
    const uint64_t product = (uint64_t)(uint32_t)mantissa * y;
    const int32_t exponent = norm_exponent + 62 - half_lead;
    const int32_t most = exponent - (33 - __builtin_clz((uint32_t)(product >> 32))); /* bit length - 31 */
    const int32_t shift = most < 2 ? 2 : most > 32 ? 32 : most;
    const int32_t drop = exponent - shift;
    uint64_t rounded = 0;
    if (drop > 32 && drop <= 62) { /* as a rule; the low word's carry is all that it adds */
        const int32_t rest = drop - 32;
        rounded = ((uint32_t)(product >> 32) + ((uint32_t)1 << (rest - 1))) >> rest;
    } else if (drop <= 62) {
        rounded = (product + ((uint64_t)1 << (drop - 1))) >> drop;
    }
    pf_factor factor = {rounded > INT32_MAX ? INT32_MAX : (int32_t)rounded, shift};
    return factor;
}

/* The factor of a row of a layer normalization, from n = width, total = sum x, squares = sum x^2. */
static inline pf_factor pf_row_factor(const pf_layer_norm *p, int32_t total, uint64_t squares) {
    const uint64_t variance = (uint64_t)p->width * squares - (uint64_t)((int64_t)total * total) + (uint64_t)p->epsilon;
    return pf_norm_factor(p->mantissa, p->exponent, variance);
}

#endif
