/* Mul: two tensors element by element, the second repeated where the shapes say so. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "broadcast.h"

#define DEFINE_MUL(A, B, OUT)                                                                                                    \
    void pf_mul_##A##_##B##_##OUT(const pf_mul *p, const pf_broadcast *shape, const PF_TYPE_##A *a, const PF_TYPE_##B *b,        \
                                  PF_TYPE_##OUT *y) {                                                                            \
        for (pf_run r = pf_first_run(shape); r.length > 0; r = pf_next_run(shape, r)) {                                          \
            pf_mul_span_##A##_##B##_##OUT(p, a + r.start, b + r.index, r.step, y + r.start, r.length);                           \
        }                                                                                                                        \
    }

DEFINE_MUL(s8, s8, s8)
DEFINE_MUL(s8, s8, s16)
DEFINE_MUL(s8, s16, s8)
DEFINE_MUL(s8, s16, s16)
DEFINE_MUL(s16, s8, s8)
DEFINE_MUL(s16, s8, s16)
DEFINE_MUL(s16, s16, s8)
DEFINE_MUL(s16, s16, s16)
