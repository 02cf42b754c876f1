/* Add and Mul in float, the second operand repeated where the shapes say so. */
#include "broadcast.h"

#define DEFINE_ELEMENTWISE(NAME, OPERATOR)                                                                                       \
    void pf_##NAME##_f32(const pf_broadcast *shape, const float *a, const float *b, float *y) {                                  \
        for (pf_run r = pf_first_run(shape); r.length > 0; r = pf_next_run(shape, r)) {                                          \
            for (int32_t i = 0; i < r.length; i++) {                                                                             \
                y[r.start + i] = a[r.start + i] OPERATOR b[r.index + i * r.step];                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_ELEMENTWISE(add, +)
DEFINE_ELEMENTWISE(mul, *)
