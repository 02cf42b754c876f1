/* The inner product of two float vectors, in four partial sums: shorter chains of additions, smaller error. */
#ifndef PF_FLOAT_DOT_H
#define PF_FLOAT_DOT_H

#include <stdint.h>

static inline float pf_dot_f32(const float *a, const float *b, int32_t count) {
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    int32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < count; i++) {
        s0 += a[i] * b[i];
    }
    return (s0 + s1) + (s2 + s3);
}

#endif
