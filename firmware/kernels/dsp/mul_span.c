/* Products of two lines of elements, each on its own grid; int16 in words four at a time, rescaled by one rounded high word. */
#include "picoformer/mul_span.h"

/* `fours` times four elements at words; in C: y[i] = clamp(rounded high word of a[i] * b[i] * multiplier), fours > 0. */
__attribute__((naked, noinline)) static void multiply_fours(const int16_t *a __attribute__((unused)),
                                                            const int16_t *b __attribute__((unused)),
                                                            int16_t *y __attribute__((unused)),
                                                            int32_t fours __attribute__((unused)),
                                                            int32_t multiplier __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " ldr.w r12, [sp, #36]\n"
                     "1: ldmia.n r0!, {r4, r5}\n"
                     " ldmia.n r1!, {r6, r7}\n"
                     " smulbb r8, r4, r6\n smultt r9, r4, r6\n smulbb r10, r5, r7\n smultt r11, r5, r7\n"
                     " smmulr r8, r8, r12\n smmulr r9, r9, r12\n smmulr r10, r10, r12\n smmulr r11, r11, r12\n"
                     " ssat r8, #16, r8\n ssat r9, #16, r9\n ssat r10, #16, r10\n ssat r11, #16, r11\n"
                     " pkhbt r8, r8, r9, lsl #16\n"
                     " pkhbt r9, r10, r11, lsl #16\n"
                     " stmia.w r2!, {r8, r9}\n"
                     " subs r3, r3, #1\n"
                     " bne.n 1b\n"
                     " pop {r4-r11, pc}\n");
}

/* Elements that go four at a time; returns how many that were. */
static inline int32_t fours(const pf_mul *p, const int16_t *a, const int16_t *b, int32_t b_step, int16_t *y, int32_t count) {
    const int32_t is_plain = b_step == 1 && p->shift == 32 && (p->zero_a | p->zero_b | p->zero_point) == 0;
    if (!is_plain || count < 4 || (((uintptr_t)a | (uintptr_t)b | (uintptr_t)y) & 3u) != 0u) {
        return 0;
    }
    multiply_fours(a, b, y, count / 4, p->multiplier);
    return count & ~3;
}

PF_DEFINE_MUL_SPAN(s8, s8, s8, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s8, s8, s16, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s8, s16, s8, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s8, s16, s16, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s16, s8, s8, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s16, s8, s16, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s16, s16, s8, PF_NO_PRODUCTS)
PF_DEFINE_MUL_SPAN(s16, s16, s16, fours)
