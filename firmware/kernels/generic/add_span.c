/* Sums of two lines of elements, each on its own grid. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define DEFINE_ADD(A, B, OUT)                                                                                                    \
    void pf_add_span_##A##_##B##_##OUT(const pf_add *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const int32_t multiplier_a = p->multiplier_a, multiplier_b = p->multiplier_b, shift = p->shift;                          \
        const int64_t offset = p->offset + ((int64_t)1 << (shift - 1));                                                          \
        for (int32_t i = 0; i < count; i++, b += b_step) {                                                                       \
            const int64_t sum = offset + pf_narrow_product(a[i], multiplier_a) + pf_narrow_product(*b, multiplier_b);            \
            const int32_t value = pf_shift_clamped(sum, shift);                                                                  \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_ADD(s8, s8, s8)
DEFINE_ADD(s8, s8, s16)
DEFINE_ADD(s8, s16, s8)
DEFINE_ADD(s8, s16, s16)
DEFINE_ADD(s16, s8, s8)
DEFINE_ADD(s16, s8, s16)
DEFINE_ADD(s16, s16, s8)
DEFINE_ADD(s16, s16, s16)
