/* Sums of two lines of int16 on one grid, eight at a time by VQADD. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* In C: for (; count > 0; count--) *y++ = clamp(*a++ + *b++); */
__attribute__((naked, noinline)) static void add_lines(const int16_t *a __attribute__((unused)),
                                                       const int16_t *b __attribute__((unused)),
                                                       int16_t *y __attribute__((unused)),
                                                       int32_t count __attribute__((unused))) {
    __asm__ volatile(" push {r4, lr}\n"
                     " dlstp.16 lr, r3\n"
                     "1: vldrh.u16 q0, [r0], #16\n"
                     " vldrh.u16 q1, [r1], #16\n"
                     " vqadd.s16 q0, q0, q1\n"
                     " vstrh.16 q0, [r2], #16\n"
                     " letp lr, 1b\n"
                     " pop {r4, pc}\n");
}

/* The same with one b for all. */
__attribute__((naked, noinline)) static void add_number(const int16_t *a __attribute__((unused)),
                                                        int32_t b __attribute__((unused)), int16_t *y __attribute__((unused)),
                                                        int32_t count __attribute__((unused))) {
    __asm__ volatile(" push {r4, lr}\n"
                     " dlstp.16 lr, r3\n"
                     "1: vldrh.u16 q0, [r0], #16\n"
                     " vqadd.s16 q0, q0, r1\n"
                     " vstrh.16 q0, [r2], #16\n"
                     " letp lr, 1b\n"
                     " pop {r4, pc}\n");
}

void pf_add_plain_span_s16(const int16_t *a, const int16_t *b, int32_t b_step, int16_t *y, int32_t count) {
    if (b_step == 1) {
        add_lines(a, b, y, count);
    } else {
        add_number(a, *b, y, count);
    }
}
