/* Requantize: the same real numbers on another integer grid. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define DEFINE_REQUANTIZE(IN, OUT)                                                                                               \
    void pf_requantize_##IN##_##OUT(const pf_requantize *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t count) {            \
        const int32_t multiplier = p->multiplier, shift = p->shift, zero_in = p->zero_in, zero_point = p->zero_point;            \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            const int32_t value = zero_point + pf_rescale(x[i] - zero_in, multiplier, shift);                                    \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_REQUANTIZE(s8, s8)
DEFINE_REQUANTIZE(s8, s16)
DEFINE_REQUANTIZE(s16, s8)
DEFINE_REQUANTIZE(s16, s16)
