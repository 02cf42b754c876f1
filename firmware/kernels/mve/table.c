/* A function of one int8 number as a table of all its values: sixteen or eight at a time by gathered loads. */
#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

/* In C: for (; count > 0; count--) *y++ = table[*x++ + 128]; */
__attribute__((naked)) void pf_table_s8_s8(const int8_t *table __attribute__((unused)), const int8_t *x __attribute__((unused)),
                                           int8_t *y __attribute__((unused)), int32_t count __attribute__((unused))) {
    __asm__ volatile(" push {r4, lr}\n"
                     " mov r4, #128\n"
                     " dlstp.8 lr, r3\n"
                     "1: vldrb.u8 q0, [r1], #16\n"
                     " vadd.i8 q0, q0, r4\n"
                     " vldrb.u8 q1, [r0, q0]\n"
                     " vstrb.8 q1, [r2], #16\n"
                     " letp lr, 1b\n"
                     " pop {r4, pc}\n");
}

__attribute__((naked)) void pf_table_s8_s16(const int16_t *table __attribute__((unused)),
                                            const int8_t *x __attribute__((unused)), int16_t *y __attribute__((unused)),
                                            int32_t count __attribute__((unused))) {
    __asm__ volatile(" push {r4, lr}\n"
                     " mov r4, #128\n"
                     " dlstp.16 lr, r3\n"
                     "1: vldrb.s16 q0, [r1], #8\n"
                     " vadd.i16 q0, q0, r4\n"
                     " vldrh.u16 q1, [r0, q0, uxtw #1]\n"
                     " vstrh.16 q1, [r2], #16\n"
                     " letp lr, 1b\n"
                     " pop {r4, pc}\n");
}
