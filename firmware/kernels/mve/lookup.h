/* Functions of one number by gathered loads, as loops that operators are made of or end with. */
#ifndef PF_MVE_LOOKUP_H
#define PF_MVE_LOOKUP_H

#include "picoformer/fixedpoint.h"

/* In C: for (; count > 0; count--) *y++ = table[*x++ + 128]; */
#define DEFINE_TABLE_s8(LINKAGE, NAME)                                                                                           \
    __attribute__((naked)) LINKAGE void NAME(const int8_t *table __attribute__((unused)),                                        \
                                             const int8_t *x __attribute__((unused)), int8_t *y __attribute__((unused)),         \
                                             int32_t count __attribute__((unused))) {                                            \
        __asm__ volatile(" push {r4, lr}\n"                                                                                      \
                         " mov r4, #128\n"                                                                                       \
                         " dlstp.8 lr, r3\n"                                                                                     \
                         " 1: vldrb.u8 q0, [r1], #16\n"                                                                          \
                         " vadd.i8 q0, q0, r4\n"                                                                                 \
                         " vldrb.u8 q1, [r0, q0]\n"                                                                              \
                         " vstrb.8 q1, [r2], #16\n"                                                                              \
                         " letp lr, 1b\n"                                                                                        \
                         " pop {r4, pc}\n");                                                                                     \
    }

/* The same with a table of int16; of x that is int16 it is *x clamped to 8 bits. */
#define LOAD_INDEX_s8  "vldrb.s16 q0, [r1], #8\n"
#define LOAD_INDEX_s16 "vldrh.u16 q0, [r1], #16\n vmin.s16 q0, q0, q3\n vmax.s16 q0, q0, q2\n"
#define DEFINE_TABLE_s16(LINKAGE, NAME, IN, LOAD)                                                                                \
    __attribute__((naked)) LINKAGE void NAME(const int16_t *table __attribute__((unused)),                                       \
                                             const PF_TYPE_##IN *x __attribute__((unused)), int16_t *y __attribute__((unused)),  \
                                             int32_t count __attribute__((unused))) {                                            \
        __asm__ volatile(" push {r4, lr}\n"                                                                                      \
                         " mov r4, #128\n"                                                                                       \
                         " vmov.i16 q3, #127\n"                                                                                  \
                         " vmvn.i16 q2, #127\n"                                                                                  \
                         " dlstp.16 lr, r3\n"                                                                                    \
                         "1: " LOAD " vadd.i16 q0, q0, r4\n"                                                                     \
                         " vldrh.u16 q1, [r0, q0, uxtw #1]\n"                                                                    \
                         " vstrh.16 q1, [r2], #16\n"                                                                             \
                         " letp lr, 1b\n"                                                                                        \
                         " pop {r4, pc}\n");                                                                                     \
    }

/* In C: for (; count > 0; count--) p = *x++ + 32768, e = table + (p >> 7),
 *       *y++ = clamp(e[0] + (((e[1] - e[0]) * (p & 127) + 64) >> 7)); */
#define STORE_LINE_s8  " vqmovnb.s16 q1, q1\n vstrb.32 q1, [r2], #4\n"
#define STORE_LINE_s16 " vstrh.32 q1, [r2], #8\n"
#define DEFINE_INTERPOLATE(LINKAGE, NAME, OUT)                                                                                   \
    __attribute__((naked)) LINKAGE void NAME(const int16_t *table __attribute__((unused)),                                       \
                                             const int16_t *x __attribute__((unused)), PF_TYPE_##OUT *y __attribute__((unused)), \
                                             int32_t count __attribute__((unused))) {                                            \
        __asm__ volatile(" push {r4-r6, lr}\n"                                                                                   \
                         " vpush {d8-d9}\n"                                                                                      \
                         " mov r4, #32768\n"                                                                                     \
                         " add r5, r0, #2\n"                                                                                     \
                         " vmov.i32 q3, #127\n"                                                                                  \
                         " dlstp.32 lr, r3\n"                                                                                    \
                         " 1: vldrh.s32 q0, [r1], #8\n"                                                                          \
                         " vadd.i32 q0, q0, r4\n"                                                                                \
                         " vshr.u32 q2, q0, #7\n"                                                                                \
                         " vand q0, q0, q3\n"                                                                                    \
                         " vldrh.s32 q1, [r0, q2, uxtw #1]\n"                                                                    \
                         " vldrh.s32 q4, [r5, q2, uxtw #1]\n"                                                                    \
                         " vsub.i32 q4, q4, q1\n"                                                                                \
                         " vmul.i32 q0, q0, q4\n"                                                                                \
                         " vrshr.s32 q0, q0, #7\n"                                                                               \
                         " vadd.i32 q1, q1, q0\n"                                                                                \
                         " vqmovnb.s32 q1, q1\n" STORE_LINE_##OUT " letp lr, 1b\n"                                               \
                                                                  " vpop {d8-d9}\n"                                              \
                                                                  " pop {r4-r6, pc}\n");                                         \
    }

#endif
