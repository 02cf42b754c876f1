/* LayerNorm in float: the mean first, then the squares of the distances to it. */
#include "float_math.h"
#include "picoformer/ops.h"

void pf_layer_norm_f32(const pf_layer_norm_f32_params *p, const float *x, float *y, int32_t rows) {
    const int32_t width = p->width;
    for (int32_t r = 0; r < rows; r++, x += width, y += width) {
        float sum = 0.0f, squares = 0.0f, rest = 0.0f;
        for (int32_t i = 0; i < width; i++) {
            sum += x[i];
        }
        /* The mean in two parts: its float and what rounding left out, which counts where the row is far from zero. */
        const float mean = sum / (float)width;
        for (int32_t i = 0; i < width; i++) {
            rest += x[i] - mean;
        }
        rest /= (float)width;
        for (int32_t i = 0; i < width; i++) {
            const float centred = x[i] - mean - rest;
            squares += centred * centred;
        }
        const float factor = pf_rsqrt_f32(squares / (float)width + p->epsilon);
        for (int32_t i = 0; i < width; i++) {
            const float unit = (x[i] - mean - rest) * factor;
            y[i] = p->gain != 0 ? unit * p->gain[i] + p->bias[i] : unit;
        }
    }
}
