/* Products of two lines of elements, each on its own grid. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define DEFINE_MUL(A, B, OUT)                                                                                                    \
    void pf_mul_span_##A##_##B##_##OUT(const pf_mul *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const int32_t zero_a = p->zero_a, zero_b = p->zero_b, zero_point = p->zero_point;                                        \
        const int32_t multiplier = p->multiplier, shift = p->shift;                                                              \
        for (int32_t i = 0; i < count; i++, b += b_step) {                                                                       \
            const int32_t value = zero_point + pf_rescale((a[i] - zero_a) * (*b - zero_b), multiplier, shift);                   \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_MUL(s8, s8, s8)
DEFINE_MUL(s8, s8, s16)
DEFINE_MUL(s8, s16, s8)
DEFINE_MUL(s8, s16, s16)
DEFINE_MUL(s16, s8, s8)
DEFINE_MUL(s16, s8, s16)
DEFINE_MUL(s16, s16, s8)
DEFINE_MUL(s16, s16, s16)
