/* Sums of two lines of elements, each on its own grid: four at a time, low and high words of the sum apart. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

typedef struct factors {
    uint32_t low, high; /* the offset, rounding included; to its high word 2 is added */
    int32_t shift, a, b;
} factors;

#define LOAD_s8   "vldrb.s32 "
#define LOAD_s16  "vldrh.s32 "
#define STEP_s8   ", #4\n"
#define STEP_s16  ", #8\n"
#define STORE_s8  " vqmovnb.s16 q2, q2\n vstrb.32 q2, [r2], #4\n"
#define STORE_s16 " vstrh.32 q2, [r2], #8\n"

/* In C: for (; count > 0; count--) *y++ = clamp((offset + *a++ * f->a + *b++ * f->b) >> f->shift);
 * An addition of low words carries where the sum is below what was added; where it is not, one of the 2 goes. Shifted left by
 * 32 - shift the high word saturates where the result would. */
#define DEFINE_LINE(A, B, OUT)                                                                                                   \
    __attribute__((naked, noinline)) static void line_##A##_##B##_##OUT(                                                         \
        const PF_TYPE_##A *a __attribute__((unused)), const PF_TYPE_##B *b __attribute__((unused)),                              \
        PF_TYPE_##OUT *y __attribute__((unused)), int32_t count __attribute__((unused)),                                         \
        const factors *f __attribute__((unused))) {                                                                              \
        __asm__ volatile(" push {r4-r8, lr}\n"                                                                                   \
                         " vpush {d12-d15}\n"                                                                                    \
                         " ldr r8, [sp, #56]\n"                                                                                  \
                         " ldm r8, {r4, r5, r6, r7, r8, r12}\n"                                                                  \
                         " vdup.32 q6, r7\n"                                                                                     \
                         " vdup.32 q7, r8\n"                                                                                     \
                         " mov r7, #1\n"                                                                                         \
                         " rsb r8, r6, #32\n"                                                                                    \
                         " rsb r6, r6, #0\n"                                                                                     \
                         " dlstp.32 lr, r3\n"                                                                                    \
                         "1: " LOAD_##A "q0, [r0]" STEP_##A " " LOAD_##B "q1, [r1]" STEP_##B " vmulh.s32 q2, q0, q6\n"           \
                                                                                             " vmul.i32 q0, q0, q6\n"            \
                                                                                             " vmulh.s32 q3, q1, q7\n"           \
                                                                                             " vmul.i32 q1, q1, q7\n"            \
                                                                                             " vadd.i32 q2, q2, q3\n"            \
                                                                                             " vadd.i32 q2, q2, r5\n"            \
                                                                                             " vadd.i32 q0, q0, r4\n"            \
                                                                                             " vcmp.u32 cs, q0, r4\n"            \
                                                                                             " vpst\n"                           \
                                                                                             " vsubt.i32 q2, q2, r7\n"           \
                                                                                             " vadd.i32 q0, q0, q1\n"            \
                                                                                             " vcmp.u32 cs, q0, q1\n"            \
                                                                                             " vpst\n"                           \
                                                                                             " vsubt.i32 q2, q2, r7\n"           \
                                                                                             " vqshl.s32 q2, r8\n"               \
                                                                                             " vshl.u32 q0, r6\n"                \
                                                                                             " vorr q2, q2, q0\n"                \
                                                                                             " vqmovnb.s32 q2, q2\n" STORE_##OUT \
                         " letp lr, 1b\n"                                                                                        \
                         " vpop {d12-d15}\n"                                                                                     \
                         " pop {r4-r8, pc}\n");                                                                                  \
    }

#define DEFINE_ADD(A, B, OUT)                                                                                                    \
    void pf_add_span_##A##_##B##_##OUT(const pf_add *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const int64_t own = b_step == 1 ? 0 : (int64_t)*b * p->multiplier_b;                                                     \
        const uint64_t offset = (uint64_t)(p->offset + own + ((int64_t)1 << (p->shift - 1)));                                    \
        factors f = {(uint32_t)offset, (uint32_t)(offset >> 32) + 2u, p->shift, p->multiplier_a, p->multiplier_b};               \
        if (b_step == 1) {                                                                                                       \
            line_##A##_##B##_##OUT(a, b, y, count, &f);                                                                          \
        } else { /* one b for all is part of the offset */                                                                       \
            f.b = 0;                                                                                                             \
            line_##A##_##A##_##OUT(a, a, y, count, &f);                                                                          \
        }                                                                                                                        \
    }

DEFINE_LINE(s8, s8, s8)
DEFINE_LINE(s8, s8, s16)
DEFINE_LINE(s8, s16, s8)
DEFINE_LINE(s8, s16, s16)
DEFINE_LINE(s16, s8, s8)
DEFINE_LINE(s16, s8, s16)
DEFINE_LINE(s16, s16, s8)
DEFINE_LINE(s16, s16, s16)

DEFINE_ADD(s8, s8, s8)
DEFINE_ADD(s8, s8, s16)
DEFINE_ADD(s8, s16, s8)
DEFINE_ADD(s8, s16, s16)
DEFINE_ADD(s16, s8, s8)
DEFINE_ADD(s16, s8, s16)
DEFINE_ADD(s16, s16, s8)
DEFINE_ADD(s16, s16, s16)
