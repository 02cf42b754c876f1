/* Linear in float. */
#include "float_dot.h"
#include "picoformer/ops.h"

void pf_linear_f32(const pf_linear_f32_params *p, const float *x, float *y, int32_t rows) {
    for (int32_t r = 0; r < rows; r++, x += p->k) {
        const float *weight = p->weight;
        for (int32_t i = 0; i < p->n; i++, weight += p->k) {
            *y++ = pf_dot_f32(weight, x, p->k) + (p->bias != 0 ? p->bias[i] : 0.0f);
        }
    }
}
