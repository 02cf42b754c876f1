/* exp, erf, tanh and square root in single precision, each a range reduction and a polynomial.
 *
 * The polynomials were fitted for the smallest relative error on their interval, in double precision; what stands above
 * each is that error before rounding. */
#include "float_math.h"

typedef union {
    float number;
    uint32_t bits;
} word;

static float from_bits(uint32_t bits) {
    word w = {.bits = bits};
    return w.number;
}

/* c[degree] x^degree + ... + c[0] */
static float polynomial(const float *c, int32_t degree, float x) {
    float sum = c[degree];
    while (degree > 0) {
        degree--;
        sum = sum * x + c[degree];
    }
    return sum;
}

float pf_exp_f32(float x) {
    /* e^r on |r| <= ln(2)/2: 1.9e-9 */
    static const float c[7] = {1.0f, 1.0f, 0.499999911f, 0.166664198f, 0.0416683219f, 0.00837486796f, 0.00138316641f};
    if (!(x > -87.3365f)) {
        return x != x ? x : 0.0f;
    }
    if (x > 88.7228f) {
        return from_bits(0x7F800000u);
    }
    /* x = k ln 2 + r; ln 2 in two parts, the first short enough that k times it is exact */
    const float scaled = x * 1.44269504f;
    const int32_t k = (int32_t)(scaled + (scaled < 0.0f ? -0.5f : 0.5f));
    const float r = (x - (float)k * 0.693359375f) - (float)k * -2.12194440e-4f;
    /* 2^k in two factors, because 2^128 is no float */
    const int32_t half = k / 2;
    return polynomial(c, 6, r) * from_bits((uint32_t)(half + 127) << 23) * from_bits((uint32_t)(k - half + 127) << 23);
}

float pf_exp_minus_one_f32(float x) {
    /* (e^x - 1) / x by its series on -0.35 < x <= 0: 1e-9 */
    static const float c[8] = {1.0f,           0.5f,           0.166666667f,   0.0416666667f,
                               0.00833333333f, 0.00138888889f, 1.98412698e-4f, 2.48015873e-5f};
    return x > -0.35f ? x * polynomial(c, 7, x) : pf_exp_f32(x) - 1.0f;
}

/* ln((1 + s) / (1 - s)) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...) on |s| <= 1/3: 2e-8 */
static float double_area(float s) {
    static const float c[7] = {2.0f, 0.666666667f, 0.4f, 0.285714286f, 0.222222222f, 0.181818182f, 0.153846154f};
    return s * polynomial(c, 6, s * s);
}

float pf_log_one_plus_f32(float x) {
    return double_area(x / (2.0f + x));
}

float pf_natural_log_f32(float x) {
    if (!(x >= 1.17549435e-38f)) {
        return x != x || x < 0.0f ? from_bits(0x7FC00000u) : from_bits(0xFF800000u);
    }
    word w = {.number = x};
    /* x = 2^k m with m from sqrt(1/2) to sqrt(2) */
    const int32_t k = (int32_t)((w.bits - 0x3F3504F3u) >> 23) - (w.bits < 0x3F3504F3u ? 512 : 0);
    const float m = from_bits(w.bits - ((uint32_t)k << 23));
    /* ln 2 in two parts, the first short enough that k times it is exact */
    return (float)k * 0.693359375f + ((float)k * -2.12194440e-4f + double_area((m - 1.0f) / (m + 1.0f)));
}

float pf_rsqrt_f32(float x) {
    word w = {.number = x};
    w.bits = 0x5F375A86u - (w.bits >> 1); /* halves and negates the exponent: within 3.5 %, for Newton to begin with */
    const float half = 0.5f * x;
    float y = w.number;
    for (int32_t i = 0; i < 4; i++) {
        y += y * (0.5f - half * y * y);
    }
    return y;
}

float pf_sqrt_f32(float x) {
    if (!(x > 1.17549435e-38f)) {
        return x < 0.0f ? from_bits(0x7FC00000u) : x != x ? x : 0.0f;
    }
    const float y = pf_rsqrt_f32(x);
    const float root = x * y;
    return root + 0.5f * y * (x - root * root);
}

/* erf(x)/x in x^2 on |x| <= 1: 3.4e-11 */
static const float erf_small[8] = {1.12837923f,    -0.376126379f,   0.112837821f,    -0.0268653948f,
                                   0.00522093009f, -0.00084826100f, 0.000112553746f, -9.63706498e-6f};

/* erfc(x) for x >= 1 */
static float complement(float x) {
    /* e^(x^2) erfc(x) in 1/(x + 2) on 1 <= x <= 10: 5.9e-9 */
    static const float c[9] = {-3.94022709e-6f, 0.564390719f, 1.12413216f,  2.02178931f, 2.54223800f,
                               3.31245041f,     1.75657010f,  -23.9062710f, 20.8443241f};
    if (x > 10.0f) {
        return 0.0f;
    }
    /* x^2 = s^2 + (x - s)(x + s) with s so short that its square is exact */
    word w = {.number = x};
    w.bits &= 0xFFFFF000u;
    const float s = w.number;
    return pf_exp_f32(-s * s) * pf_exp_f32(-(x - s) * (x + s)) * polynomial(c, 8, 1.0f / (x + 2.0f));
}

float pf_erf_f32(float x) {
    const float size = x < 0.0f ? -x : x;
    if (!(size > 1.0f)) {
        return x * polynomial(erf_small, 7, x * x);
    }
    const float result = 1.0f - complement(size);
    return x < 0.0f ? -result : result;
}

float pf_normal_f32(float x) {
    const float z = x * 0.707106781f;
    const float size = z < 0.0f ? -z : z;
    if (!(size > 1.0f)) {
        return 0.5f + 0.5f * z * polynomial(erf_small, 7, z * z);
    }
    const float tail = 0.5f * complement(size);
    return z < 0.0f ? tail : 1.0f - tail;
}

float pf_hyperbolic_tangent_f32(float x) {
    /* tanh(x)/x in x^2 on x^2 <= 0.4: 4.6e-9 */
    static const float c[6] = {1.0f, -0.333332509f, 0.133309051f, -0.0537034087f, 0.0205345172f, -0.00559735019f};
    const float size = x < 0.0f ? -x : x;
    if (!(size * size > 0.4f)) {
        return x * polynomial(c, 5, x * x);
    }
    const float result = 1.0f - 2.0f / (pf_exp_f32(2.0f * size) + 1.0f);
    return x < 0.0f ? -result : result;
}

float pf_logistic_f32(float x) {
    return 1.0f / (1.0f + pf_exp_f32(-x));
}
