/* A function of one int16 number: a table of every 128th value, a straight line between two of them; four at a time. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#define STORE_s8  " vqmovnb.s32 q1, q1\n vqmovnb.s16 q1, q1\n vstrb.32 q1, [r2], #4\n"
#define STORE_s16 " vqmovnb.s32 q1, q1\n vstrh.32 q1, [r2], #8\n"

/* In C: for (; count > 0; count--) p = *x++ + 32768, e = table + (p >> 7),
 *       *y++ = clamp(e[0] + (((e[1] - e[0]) * (p & 127) + 64) >> 7)); */
#define DEFINE_INTERPOLATE(OUT)                                                                                                  \
    __attribute__((naked)) void pf_interpolate_s16_##OUT(                                                                        \
        const int16_t *table __attribute__((unused)), const int16_t *x __attribute__((unused)),                                  \
        PF_TYPE_##OUT *y __attribute__((unused)), int32_t count __attribute__((unused))) {                                       \
        __asm__ volatile(" push {r4-r6, lr}\n vpush {d8-d9}\n"                                                                                   \
                         " mov r4, #32768\n"                                                                                     \
                         " add r5, r0, #2\n"                                                                                     \
                         " vmov.i32 q3, #127\n"                                                                                  \
                         " dlstp.32 lr, r3\n"                                                                                    \
                         "1: vldrh.s32 q0, [r1], #8\n"                                                                           \
                         " vadd.i32 q0, q0, r4\n"                                                                                \
                         " vshr.u32 q2, q0, #7\n"                                                                                \
                         " vand q0, q0, q3\n"                                                                                    \
                         " vldrh.s32 q1, [r0, q2, uxtw #1]\n"                                                                    \
                         " vldrh.s32 q4, [r5, q2, uxtw #1]\n"                                                                    \
                         " vsub.i32 q4, q4, q1\n"                                                                                \
                         " vmul.i32 q0, q0, q4\n"                                                                                \
                         " vrshr.s32 q0, q0, #7\n"                                                                               \
                         " vadd.i32 q1, q1, q0\n" STORE_##OUT " letp lr, 1b\n" \
                         " vpop {d8-d9}\n pop {r4-r6, pc}\n");                                                                                  \
    }

DEFINE_INTERPOLATE(s8)
DEFINE_INTERPOLATE(s16)
