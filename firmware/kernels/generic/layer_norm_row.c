/* Layer normalization of one row: two sums, one reciprocal square root, one multiplication per element. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
#include "picoformer/layer_norm_factor.h"

/* u = (d * multiplier + 2^(shift-1)) >> shift for d = width * x - total, taken as the rounded high word of
 * (d * scale) * multiplier with scale = 2^(32-shift): numerator and divisor are both multiplied by it, so it is the same
 * number. d * scale fits 32 bits: |u| <= 2^27 was proven, and where shift < 32 the multiplier is 2^30 or more, so
 * |d| <= 2^(shift-2) and |d * scale| <= 2^30. */
static inline int32_t centred(int32_t x, int32_t width, int32_t total, int32_t scale, int32_t multiplier) {
    return pf_rounded_high((width * x - total) * scale, multiplier);
}

/* SQUARES: the type that holds the sum of squares of fewer than 2^15 elements. */
#define DEFINE_ROW_FACTOR(IN, SQUARES)                                                                                           \
    static pf_factor row_factor_##IN(const pf_layer_norm *p, const PF_TYPE_##IN *x, int32_t *total) {                            \
        const int32_t width = p->width;                                                                                          \
        int32_t sum = 0;                                                                                                         \
        SQUARES squares = 0;                                                                                                     \
        for (int32_t i = 0; i < width; i++) {                                                                                    \
            sum += x[i];                                                                                                         \
            squares += (SQUARES)(x[i] * x[i]);                                                                                   \
        }                                                                                                                        \
        *total = sum;                                                                                                            \
        return pf_row_factor(p, sum, squares);                                                                                   \
    }
DEFINE_ROW_FACTOR(s8, uint32_t)
DEFINE_ROW_FACTOR(s16, uint64_t)

#define DEFINE_ROW(IN, OUT)                                                                                                      \
    void pf_layer_norm_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                       \
        const int32_t width = p->width, zero_point = p->zero_point;                                                              \
        int32_t total;                                                                                                           \
        const pf_factor f = row_factor_##IN(p, x, &total);                                                                       \
        const int32_t scale = (int32_t)1 << (32 - f.shift);                                                                      \
        for (int32_t i = 0; i < width; i++) {                                                                                    \
            const int32_t value = zero_point + centred(x[i], width, total, scale, f.multiplier);                                 \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }                                                                                                                            \
    void pf_layer_norm_gain_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                  \
        const int32_t width = p->width, zero_point = p->zero_point, shift = p->shift;                                            \
        const int32_t *gain = p->gain;                                                                                           \
        const int64_t *offset = p->offset;                                                                                       \
        int32_t total;                                                                                                           \
        const pf_factor f = row_factor_##IN(p, x, &total);                                                                       \
        const int32_t scale = (int32_t)1 << (32 - f.shift);                                                                      \
        for (int32_t i = 0; i < width; i++) {                                                                                    \
            const int64_t unit = centred(x[i], width, total, scale, f.multiplier);                                               \
            const int64_t value = zero_point + pf_rounding_shift(unit * gain[i] + offset[i], shift);                             \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_ROW(s8, s8)
DEFINE_ROW(s8, s16)
DEFINE_ROW(s16, s8)
DEFINE_ROW(s16, s16)
