/* Requantize: the same real numbers on another integer grid, four at a time by rounded high words. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define LOAD_s8   "vldrb.s32 q0, [r0], #4"
#define LOAD_s16  "vldrh.s32 q0, [r0], #8"
#define STORE_s8  " vqmovnb.s16 q0, q0\n vstrb.32 q0, [r1], #4\n"
#define STORE_s16 " vstrh.32 q0, [r1], #8\n"

/* r0 x, r1 y, r2 count, r3 parameters. A shift below 32 is a left shift first; one that does not fit saturates, and so does the
 * result then, since the multiplier is 2^30 or more. In C:
 *     for (; count > 0; count--) *y++ = clamp(zero_point + rounded high word of ((*x++ - zero_in) << left) * multiplier) */
#define DEFINE_LOOP(IN, OUT)                                                                                                     \
    __attribute__((naked, noinline)) static void loop_##IN##_##OUT(                                                              \
        const PF_TYPE_##IN *x __attribute__((unused)), PF_TYPE_##OUT *y __attribute__((unused)),                                 \
        int32_t count __attribute__((unused)), const int32_t *parameters __attribute__((unused))) {                              \
        __asm__ volatile(" push {r4-r6, lr}\n"                                                                                   \
                         " ldm r3, {r3, r4, r5, r6}\n"                                                                           \
                         " vdup.32 q1, r3\n"                                                                                     \
                         " dlstp.32 lr, r2\n"                                                                                    \
                         "1: " LOAD_##IN "\n"                                                                                    \
                                         " vsub.i32 q0, q0, r5\n"                                                                \
                                         " vqshl.s32 q0, r4\n"                                                                   \
                                         " vrmulh.s32 q0, q0, q1\n"                                                              \
                                         " vadd.i32 q0, q0, r6\n"                                                                \
                                         " vqmovnb.s32 q0, q0\n" STORE_##OUT " letp lr, 1b\n"                                    \
                                                                             " pop {r4-r6, pc}\n");                              \
    }                                                                                                                            \
    void pf_requantize_##IN##_##OUT(const pf_requantize *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t count) {            \
        const int32_t parameters[4] = {p->multiplier, 32 - p->shift, p->zero_in, p->zero_point};                                 \
        loop_##IN##_##OUT(x, y, count, parameters);                                                                              \
    }

DEFINE_LOOP(s8, s8)
DEFINE_LOOP(s8, s16)
DEFINE_LOOP(s16, s8)
DEFINE_LOOP(s16, s16)
