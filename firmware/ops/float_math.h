/* The functions of one float that the float operators need; no libm. */
#ifndef PF_FLOAT_MATH_H
#define PF_FLOAT_MATH_H

#include <stdint.h>

/* e^x; relative error below 2^-22 where the result is a normal number, 0 below that, infinity above. */
float pf_exp_f32(float x);
/* e^x - 1 for x <= 0; relative error below 2^-20. */
float pf_exp_minus_one_f32(float x);
/* ln(x) for normal x > 0; absolute error below 2^-22 (1 + |ln(x)|). */
float pf_natural_log_f32(float x);
/* ln(1 + x) for 0 <= x <= 1; relative error below 2^-21. */
float pf_log_one_plus_f32(float x);
/* 1/sqrt(x) for normal x > 0; relative error below 2^-22. */
float pf_rsqrt_f32(float x);
/* sqrt(x) for x >= 0; relative error below 2^-22. */
float pf_sqrt_f32(float x);
/* erf(x); absolute error below 2e-7. */
float pf_erf_f32(float x);
/* The normal distribution's Phi(x) = erfc(-x / sqrt 2) / 2; relative error below 2^-19 for x > -4, absolute 1e-7. */
float pf_normal_f32(float x);
/* tanh(x); relative error below 2^-21. */
float pf_hyperbolic_tangent_f32(float x);
/* 1/(1 + e^-x); relative error below 2^-21 where the result is a normal number. */
float pf_logistic_f32(float x);

#endif
