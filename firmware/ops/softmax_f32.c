/* Softmax of each row in float. */
#include "float_math.h"
#include "picoformer/ops.h"

void pf_softmax_f32(const float *x, float *y, int32_t rows, int32_t width) {
    for (int32_t r = 0; r < rows; r++, x += width, y += width) {
        float top = x[0], total = 0.0f;
        for (int32_t j = 1; j < width; j++) {
            top = x[j] > top ? x[j] : top;
        }
        for (int32_t j = 0; j < width; j++) {
            y[j] = pf_exp_f32(x[j] - top);
            total += y[j];
        }
        for (int32_t j = 0; j < width; j++) {
            y[j] /= total;
        }
    }
}
