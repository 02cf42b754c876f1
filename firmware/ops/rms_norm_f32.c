/* RmsNorm in float. */
#include "float_dot.h"
#include "float_math.h"
#include "picoformer/ops.h"

void pf_rms_norm_f32(const pf_rms_norm_f32_params *p, const float *x, float *y, int32_t rows) {
    for (int32_t r = 0; r < rows; r++, x += p->width, y += p->width) {
        const float factor = pf_rsqrt_f32(pf_dot_f32(x, x, p->width) / (float)p->width + p->epsilon);
        for (int32_t i = 0; i < p->width; i++) {
            y[i] = p->gain != 0 ? x[i] * factor * p->gain[i] : x[i] * factor;
        }
    }
}
