/* Linear layers on int16 activations whose sums fit 32 bits, for VMLADAVA.S16: a group of weights is widened for all rows. */
#include "linear_layer.h"

/* In C: for (; count > 0; count--) *to++ = *from++; */
__attribute__((naked, noinline)) static void widen(const int8_t *from __attribute__((unused)),
                                                   int16_t *to __attribute__((unused)), int32_t count __attribute__((unused))) {
    __asm__ volatile(" push {r4, lr}\n"
                     " lsr r2, r2, #5\n"
                     " dls lr, r2\n"
                     "1: vldrb.s16 q0, [r0], #8\n"
                     " vldrb.s16 q1, [r0], #8\n"
                     " vldrb.s16 q2, [r0], #8\n"
                     " vldrb.s16 q3, [r0], #8\n"
                     " vstmia r1!, {d0-d7}\n"
                     " le lr, 1b\n"
                     " pop {r4, pc}\n");
}

static const int16_t *weights(const pf_linear *p, int32_t i, int32_t vectors, void *scratch) {
    widen(p->weight + i * vectors * 8, scratch, GROUP * vectors * 8);
    return scratch;
}

DEFINE_SUM(s16)
DEFINE_GROUPS("s16", s8)
DEFINE_GROUPS("s16", s16)
DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, s16, s8, GROUP, weights)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, s16, s16, GROUP, weights)
