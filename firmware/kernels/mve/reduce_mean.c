/* ReduceMean for MVE: four columns at a time. */
#include <arm_mve.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define LOAD_s8(X, THERE)  vldrbq_z_s32(X, THERE)
#define LOAD_s16(X, THERE) vldrhq_z_s32(X, THERE)
#define LOAD_ALL_s8(X)     vldrbq_s32(X)
#define LOAD_ALL_s16(X)    vldrhq_s32(X)

#define DEFINE_REDUCE_MEAN(IN, OUT)                                                                                              \
    void pf_reduce_mean_##IN##_##OUT(const pf_reduce_mean *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t valid) {          \
        const int32_t inner = p->inner;                                                                                          \
        const int32_t count = valid < 0 ? 0 : valid < p->length ? valid : p->length;                                             \
        const pf_factor f = pf_scaled_reciprocal(p->mantissa, p->exponent, count > 0 ? (uint32_t)count : 1u);                    \
        for (int32_t o = 0; o < p->outer; o++, x += p->length * inner) {                                                         \
            for (int32_t i = 0; i < inner; i += 4) {                                                                             \
                const int32_t columns = inner - i < 4 ? inner - i : 4;                                                           \
                const PF_TYPE_##IN *entry = x + i;                                                                               \
                int32x4_t totals = vdupq_n_s32(-count * p->zero_in);                                                             \
                for (int32_t j = 0; j < count && columns == 4; j++, entry += inner) {                                            \
                    totals = vaddq_s32(totals, LOAD_ALL_##IN(entry));                                                            \
                }                                                                                                                \
                for (int32_t j = 0; j < count && columns < 4; j++, entry += inner) {                                             \
                    totals = vaddq_s32(totals, LOAD_##IN(entry, vctp32q((uint32_t)columns)));                                    \
                }                                                                                                                \
                for (int32_t c = 0; c < columns; c++) {                                                                          \
                    const int64_t product = (int64_t)totals[c] * f.multiplier;                                                   \
                    const int64_t value = p->zero_point + pf_rounding_shift(product, f.shift);                                   \
                    *y++ = PF_SATURATE(OUT, value);                                                                              \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_REDUCE_MEAN(s8, s8)
DEFINE_REDUCE_MEAN(s8, s16)
DEFINE_REDUCE_MEAN(s16, s8)
DEFINE_REDUCE_MEAN(s16, s16)
