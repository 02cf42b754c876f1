/* Sums of two lines of int16 on one grid. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

void pf_add_plain_span_s16(const int16_t *a, const int16_t *b, int32_t b_step, int16_t *y, int32_t count) {
    for (int32_t i = 0; i < count; i++, b += b_step) {
        const int32_t value = a[i] + *b;
        y[i] = PF_SATURATE(s16, value);
    }
}
