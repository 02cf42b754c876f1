/* Products of two lines of elements, each on its own grid; int16 in words four at a time, rescaled by one rounded high word. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

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
static inline int32_t fours_s16_s16_s16(const pf_mul *p, const int16_t *a, const int16_t *b, int32_t b_step, int16_t *y,
                                        int32_t count) {
    const int32_t is_plain = b_step == 1 && p->shift == 32 && (p->zero_a | p->zero_b | p->zero_point) == 0;
    if (!is_plain || count < 4 || (((uintptr_t)a | (uintptr_t)b | (uintptr_t)y) & 3u) != 0u) {
        return 0;
    }
    multiply_fours(a, b, y, count / 4, p->multiplier);
    return count & ~3;
}
#define NO_FOURS(A, B, OUT)                                                                                                      \
    static inline int32_t fours_##A##_##B##_##OUT(const pf_mul *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,   \
                                                  PF_TYPE_##OUT *y, int32_t count) {                                             \
        (void)p, (void)a, (void)b, (void)b_step, (void)y, (void)count;                                                           \
        return 0;                                                                                                                \
    }

#define DEFINE_MUL(A, B, OUT)                                                                                                    \
    void pf_mul_span_##A##_##B##_##OUT(const pf_mul *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const int32_t zero_a = p->zero_a, zero_b = p->zero_b, zero_point = p->zero_point;                                        \
        const int32_t multiplier = p->multiplier, shift = p->shift;                                                              \
        int32_t i = fours_##A##_##B##_##OUT(p, a, b, b_step, y, count);                                                          \
        for (b += b_step * i; i < count; i++, b += b_step) {                                                                     \
            const int32_t value = zero_point + pf_rescale((a[i] - zero_a) * (*b - zero_b), multiplier, shift);                   \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

NO_FOURS(s8, s8, s8)
NO_FOURS(s8, s8, s16)
NO_FOURS(s8, s16, s8)
NO_FOURS(s8, s16, s16)
NO_FOURS(s16, s8, s8)
NO_FOURS(s16, s8, s16)
NO_FOURS(s16, s16, s8)
DEFINE_MUL(s8, s8, s8)
DEFINE_MUL(s8, s8, s16)
DEFINE_MUL(s8, s16, s8)
DEFINE_MUL(s8, s16, s16)
DEFINE_MUL(s16, s8, s8)
DEFINE_MUL(s16, s8, s16)
DEFINE_MUL(s16, s16, s8)
DEFINE_MUL(s16, s16, s16)
