/* Softmax of each row: the numerators are read twice rather than kept. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_SOFTMAX(IN, OUT)                                                                                                  \
    void pf_softmax_##IN##_##OUT(const pf_softmax *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows) {                   \
        const uint16_t *table = p->table;                                                                                        \
        const uint32_t multiplier = (uint32_t)p->multiplier;                                                                     \
        const int32_t width = p->width, shift = p->shift, zero_point = p->zero_point;                                            \
        for (int32_t r = 0; r < rows; r++, x += width, y += width) {                                                             \
            int32_t top = x[0];                                                                                                  \
            for (int32_t j = 1; j < width; j++) {                                                                                \
                top = x[j] > top ? x[j] : top;                                                                                   \
            }                                                                                                                    \
            uint32_t total = 0;                                                                                                  \
            for (int32_t j = 0; j < width; j++) {                                                                                \
                total += pf_numerator(table, (uint32_t)(top - x[j]), multiplier, shift);                                         \
            }                                                                                                                    \
            const pf_factor f = pf_scaled_reciprocal(p->mantissa, p->exponent, total);                                           \
            for (int32_t j = 0; j < width; j++) {                                                                                \
                const int64_t numerator = pf_numerator(table, (uint32_t)(top - x[j]), multiplier, shift);                        \
                const int64_t value = zero_point + pf_rounding_shift(numerator * f.multiplier, f.shift);                         \
                y[j] = PF_SATURATE(OUT, value);                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_SOFTMAX(s8, s8)
DEFINE_SOFTMAX(s8, s16)
DEFINE_SOFTMAX(s16, s8)
DEFINE_SOFTMAX(s16, s16)
