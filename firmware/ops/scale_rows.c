/* Rows times a weight of their own each. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define DEFINE_SCALE_ROWS(IN, OUT)                                                                                               \
    void pf_scale_rows_##IN##_##OUT(const pf_scale_rows *p, const PF_TYPE_##IN *x, const int16_t *weights, PF_TYPE_##OUT *y,     \
                                    int32_t rows) {                                                                              \
        const pf_mul mul = {                                                                                                     \
            .multiplier = p->multiplier, .shift = p->shift, .zero_a = p->zero_a, .zero_b = 0, .zero_point = p->zero_point};      \
        weights += p->slot;                                                                                                      \
        for (int32_t r = 0; r < rows; r++, x += p->width, y += p->width, weights += p->chosen) {                                 \
            pf_mul_span_##IN##_s16_##OUT(&mul, x, weights, 0, y, p->width);                                                      \
        }                                                                                                                        \
    }

DEFINE_SCALE_ROWS(s8, s8)
DEFINE_SCALE_ROWS(s8, s16)
DEFINE_SCALE_ROWS(s16, s8)
DEFINE_SCALE_ROWS(s16, s16)
