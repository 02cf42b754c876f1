/* Root mean square normalization: a sum of squares, one reciprocal square root, one multiplication per element. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
#include "picoformer/layer_norm_factor.h"

/* u = (d * multiplier + 2^(shift-1)) >> shift for d = x - zero, taken as the rounded high word of (d * scale) * multiplier with
 * scale = 2^(32-shift). d * scale fits 32 bits: |u| <= 2^27 was proven, and where shift < 32 the multiplier is 2^30 or more. */
static inline int32_t unit(int32_t x, int32_t zero, int32_t scale, int32_t multiplier) {
    return pf_rounded_high((x - zero) * scale, multiplier);
}

/* SQUARES: the type that holds the sum of squares of fewer than 2^15 elements. */
#define DEFINE_RMS_NORM(IN, OUT, SQUARES)                                                                                        \
    void pf_rms_norm_##IN##_##OUT(const pf_rms_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows) {                 \
        const int32_t width = p->width, zero = p->zero_in, zero_point = p->zero_point, shift = p->shift;                         \
        const int32_t *gain = p->gain;                                                                                           \
        for (int32_t r = 0; r < rows; r++, x += width, y += width) {                                                             \
            SQUARES squares = 0;                                                                                                 \
            for (int32_t i = 0; i < width; i++) {                                                                                \
                const int32_t d = x[i] - zero;                                                                                   \
                squares += (SQUARES)(d * d);                                                                                     \
            }                                                                                                                    \
            const pf_factor f = pf_norm_factor(p->mantissa, p->exponent, (uint64_t)squares + (uint64_t)p->epsilon);              \
            const int32_t scale = (int32_t)1 << (32 - f.shift);                                                                  \
            if (gain == 0) {                                                                                                     \
                for (int32_t i = 0; i < width; i++) {                                                                            \
                    const int32_t value = zero_point + unit(x[i], zero, scale, f.multiplier);                                    \
                    y[i] = PF_SATURATE(OUT, value);                                                                              \
                }                                                                                                                \
                continue;                                                                                                        \
            }                                                                                                                    \
            for (int32_t i = 0; i < width; i++) {                                                                                \
                const int64_t product = (int64_t)unit(x[i], zero, scale, f.multiplier) * gain[i];                                \
                const int64_t value = zero_point + pf_rounding_shift(product, shift);                                            \
                y[i] = PF_SATURATE(OUT, value);                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_RMS_NORM(s8, s8, uint32_t)
DEFINE_RMS_NORM(s8, s16, uint32_t)
DEFINE_RMS_NORM(s16, s8, uint64_t)
DEFINE_RMS_NORM(s16, s16, uint64_t)
