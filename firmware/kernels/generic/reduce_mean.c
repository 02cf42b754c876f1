/* ReduceMean: the sums along an axis, four columns at a time, times the reciprocal of how many entries there are. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_REDUCE_MEAN(IN, OUT)                                                                                              \
    void pf_reduce_mean_##IN##_##OUT(const pf_reduce_mean *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t valid) {          \
        const int32_t inner = p->inner, zero_point = p->zero_point;                                                              \
        const int32_t count = valid < 0 ? 0 : valid < p->length ? valid : p->length;                                             \
        const pf_factor f = pf_scaled_reciprocal(p->mantissa, p->exponent, count > 0 ? (uint32_t)count : 1u);                    \
        const int32_t zeros = count * p->zero_in;                                                                                \
        for (int32_t o = 0; o < p->outer; o++, x += p->length * inner) {                                                         \
            for (int32_t i = 0, columns = 4; i < inner; i += columns) {                                                          \
                const PF_TYPE_##IN *entry = x + i;                                                                               \
                int32_t totals[4] = {-zeros, -zeros, -zeros, -zeros};                                                            \
                columns = inner - i < 4 ? 1 : 4;                                                                                 \
                for (int32_t j = 0; columns == 4 && j < count; j++, entry += inner) {                                            \
                    totals[0] += entry[0];                                                                                       \
                    totals[1] += entry[1];                                                                                       \
                    totals[2] += entry[2];                                                                                       \
                    totals[3] += entry[3];                                                                                       \
                }                                                                                                                \
                for (int32_t j = 0; columns == 1 && j < count; j++, entry += inner) {                                            \
                    totals[0] += entry[0];                                                                                       \
                }                                                                                                                \
                for (int32_t c = 0; c < columns; c++) {                                                                          \
                    const int64_t value = zero_point + pf_rounding_shift((int64_t)totals[c] * f.multiplier, f.shift);            \
                    *y++ = PF_SATURATE(OUT, value);                                                                              \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_REDUCE_MEAN(s8, s8)
DEFINE_REDUCE_MEAN(s8, s16)
DEFINE_REDUCE_MEAN(s16, s8)
DEFINE_REDUCE_MEAN(s16, s16)
