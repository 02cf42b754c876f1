/* ReduceMean in float. */
#include "picoformer/ops.h"

void pf_reduce_mean_f32(const float *x, float *y, int32_t outer, int32_t length, int32_t inner, int32_t valid) {
    const int32_t count = valid < 0 ? 0 : valid < length ? valid : length;
    const float divisor = count > 0 ? (float)count : 1.0f;
    for (int32_t o = 0; o < outer; o++, x += length * inner) {
        for (int32_t i = 0; i < inner; i++) {
            const float *entry = x + i;
            float sum = 0.0f;
            for (int32_t j = 0; j < count; j++, entry += inner) {
                sum += *entry;
            }
            *y++ = sum / divisor;
        }
    }
}
