/* Functions of one number in float, beside those of activation_f32.c; `p` are their parameters in order. */
#include "float_math.h"
#include "picoformer/ops.h"

static float magnitude(float x) {
    return x < 0.0f ? -x : x;
}

static float clip(const float *p, float x) {
    return x < p[0] ? p[0] : x > p[1] ? p[1] : x;
}

static float leaky_relu(const float *p, float x) {
    return x < 0.0f ? p[0] * x : x;
}

static float elu(const float *p, float x) {
    return x < 0.0f ? p[0] * pf_exp_minus_one_f32(x) : x;
}

static float celu(const float *p, float x) {
    return x < 0.0f ? p[0] * pf_exp_minus_one_f32(x / p[0]) : x;
}

static float selu(const float *p, float x) {
    return p[1] * elu(p, x);
}

static float hard_sigmoid(const float *p, float x) {
    const float y = p[0] * x + p[1];
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}

static float hard_swish(float x) {
    static const float sixth[2] = {0.166666667f, 0.5f};
    return x * hard_sigmoid(sixth, x);
}

static float swish(const float *p, float x) {
    return x * pf_logistic_f32(p[0] * x);
}

/* ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|) */
static float softplus(float x) {
    return (x > 0.0f ? x : 0.0f) + pf_log_one_plus_f32(pf_exp_f32(-magnitude(x)));
}

/* x tanh(ln(1 + e^x)) with e = e^-|x|: tanh(ln u) = (u^2 - 1) / (u^2 + 1) */
static float mish(float x) {
    const float e = pf_exp_f32(-magnitude(x));
    return x < 0.0f ? x * e * (e + 2.0f) / (e * (e + 2.0f) + 2.0f) : x * (1.0f + 2.0f * e) / (1.0f + 2.0f * e * (1.0f + e));
}

static float softsign(float x) {
    return x / (1.0f + magnitude(x));
}

static float reciprocal(float x) {
    return 1.0f / x;
}

#define DEFINE_FUNCTION(NAME, FUNCTION)                                                                                          \
    void pf_##NAME##_f32(const float *x, float *y, int32_t count) {                                                              \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            y[i] = FUNCTION(x[i]);                                                                                               \
        }                                                                                                                        \
    }

#define DEFINE_WITH_PARAMETERS(NAME)                                                                                             \
    void pf_##NAME##_f32(const float *p, const float *x, float *y, int32_t count) {                                              \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            y[i] = NAME(p, x[i]);                                                                                                \
        }                                                                                                                        \
    }

DEFINE_FUNCTION(absolute, magnitude)
DEFINE_FUNCTION(error_function, pf_erf_f32)
DEFINE_FUNCTION(exponential, pf_exp_f32)
DEFINE_FUNCTION(hard_swish, hard_swish)
DEFINE_FUNCTION(logarithm, pf_natural_log_f32)
DEFINE_FUNCTION(mish, mish)
DEFINE_FUNCTION(reciprocal, reciprocal)
DEFINE_FUNCTION(softplus, softplus)
DEFINE_FUNCTION(softsign, softsign)
DEFINE_FUNCTION(square_root, pf_sqrt_f32)
DEFINE_WITH_PARAMETERS(celu)
DEFINE_WITH_PARAMETERS(clip)
DEFINE_WITH_PARAMETERS(elu)
DEFINE_WITH_PARAMETERS(hard_sigmoid)
DEFINE_WITH_PARAMETERS(leaky_relu)
DEFINE_WITH_PARAMETERS(selu)
DEFINE_WITH_PARAMETERS(swish)
