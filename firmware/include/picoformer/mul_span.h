/* Products of two lines of elements, each on its own grid, behind those that DONE made; it says how many these are. */
#ifndef PF_MUL_SPAN_H
#define PF_MUL_SPAN_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* As DONE: no products are made by other code. */
#define PF_NO_PRODUCTS(P, A, B, B_STEP, Y, COUNT) 0

#define PF_DEFINE_MUL_SPAN(A, B, OUT, DONE)                                                                                      \
    void pf_mul_span_##A##_##B##_##OUT(const pf_mul *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const int32_t zero_a = p->zero_a, zero_b = p->zero_b, zero_point = p->zero_point;                                        \
        const int32_t multiplier = p->multiplier, shift = p->shift;                                                              \
        int32_t i = DONE(p, a, b, b_step, y, count);                                                                             \
        for (b += b_step * i; i < count; i++, b += b_step) {                                                                     \
            const int32_t value = zero_point + pf_rescale((a[i] - zero_a) * (*b - zero_b), multiplier, shift);                   \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

#endif
