/* Activations in float. */
#include "float_math.h"
#include "picoformer/ops.h"

static float relu(float x) {
    return x > 0.0f ? x : 0.0f;
}

static float gelu(float x) {
    return x * pf_normal_f32(x);
}

/* 0.5 x (1 + tanh(t)) = x / (1 + e^(-2t)), t = sqrt(2/pi) (x + 0.044715 x^3) */
static float gelu_tanh(float x) {
    return x * pf_logistic_f32(1.59576912f * (x + 0.044715f * x * x * x));
}

static float silu(float x) {
    return x * pf_logistic_f32(x);
}

#define DEFINE_ACTIVATION(NAME, FUNCTION)                                                                                        \
    void pf_##NAME##_f32(const float *x, float *y, int32_t count) {                                                              \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            y[i] = FUNCTION(x[i]);                                                                                               \
        }                                                                                                                        \
    }

DEFINE_ACTIVATION(relu, relu)
DEFINE_ACTIVATION(gelu, gelu)
DEFINE_ACTIVATION(gelu_tanh, gelu_tanh)
DEFINE_ACTIVATION(silu, silu)
DEFINE_ACTIVATION(tanh, pf_hyperbolic_tangent_f32)
DEFINE_ACTIVATION(sigmoid, pf_logistic_f32)
