/* Mixtures of experts in float. */
#include "float_math.h"
#include "picoformer/ops.h"

#include "top_experts.h"

PF_DEFINE_TOP_EXPERTS(f32, float)

int pf_expert_weights_f32(const float *x, const int32_t *ids, float *y, int32_t rows, int32_t experts, int32_t chosen) {
    for (int32_t r = 0; r < rows; r++, x += experts, ids += chosen, y += chosen) {
        for (int32_t j = 0; j < chosen; j++) {
            if (ids[j] < 0 || ids[j] >= experts) {
                return PF_ERROR_INDEX;
            }
            y[j] = x[ids[j]];
        }
        pf_softmax_f32(y, y, 1, chosen);
    }
    return PF_OK;
}

int pf_expert_linear_f32(const pf_experts *p, const pf_linear_f32_params *linear, const float *x, const int32_t *ids, float *y,
                         int32_t rows) {
    const int32_t n = linear->n, k = linear->k;
    ids += p->slot;
    for (int32_t r = 0; r < rows; r++, x += k, y += n, ids += p->chosen) {
        if (*ids < 0 || *ids >= p->experts) {
            return PF_ERROR_INDEX;
        }
        const pf_linear_f32_params own = {
            .weight = linear->weight + *ids * n * k,
            .bias = linear->bias != 0 ? linear->bias + *ids * n : 0,
            .n = n,
            .k = k,
        };
        pf_linear_f32(&own, x, y, 1);
    }
    return PF_OK;
}

void pf_scale_rows_f32(const float *x, const float *weights, float *y, int32_t rows, int32_t width, int32_t chosen,
                       int32_t slot) {
    for (int32_t r = 0; r < rows; r++, weights += chosen) {
        for (int32_t i = 0; i < width; i++) {
            *y++ = *x++ * weights[slot];
        }
    }
}
