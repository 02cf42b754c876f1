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
DEFINE_GROUPS(s8, "s16", s8, WHOLE)
DEFINE_GROUPS(s16, "s16", s16, WHOLE)
DEFINE_GROUPS(narrow_s8, "s16", s8, NARROW)
DEFINE_GROUPS(narrow_s16, "s16", s16, NARROW)
DEFINE_LINEAR(static, many_s8, pf_linear, s16, s8, GROUP, weights)
DEFINE_LINEAR(static, many_s16, pf_linear, s16, s16, GROUP, weights)

/* One row as a rule reads its weights where they lie. */
#define DEFINE_LINEAR_S16(OUT)                                                                                                   \
    void pf_linear_s16_##OUT(const pf_linear *p, const int16_t *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {              \
        const int32_t n = p->n, k = p->k, vectors = (k + 7) / 8, left = 32 - p->shift;                                           \
        if (rows != 1 || left > p->headroom || IS_FAR_##OUT(p->entries)) {                                                       \
            many_##OUT(p, x, y, rows, scratch);                                                                                  \
            return;                                                                                                              \
        }                                                                                                                        \
        if (p->block > 0) {                                                                                                      \
            int16_t *const filled = (int16_t *)scratch + GROUP * 8 * vectors;                                                    \
            fill_strided_s16(x, k, filled, 1, k);                                                                                \
            x = filled;                                                                                                          \
        }                                                                                                                        \
        group g = {.w = p->weight,                                                                                               \
                   .pieces = (vectors >> 2) - 1,                                                                                 \
                   .start = start_of(vectors),                                                                                   \
                   .x = x,                                                                                                       \
                   .x_end = x + 8 * vectors,                                                                                     \
                   .y_step = 0,                                                                                                  \
                   .zero_point = p->zero_point,                                                                                  \
                   .left = {left, left, left, left},                                                                             \
                   .adds = PF_IS_RESIDUAL_##OUT(p->entries)};                                                                    \
        for (int32_t i = 0; i < n; i += GROUP) {                                                                                 \
            g.w = p->weight + i * vectors * 8;                                                                                   \
            set_outputs(&g, p->bias + i, p->factor + i, n - i);                                                                  \
            g.y = y + i;                                                                                                         \
            group_narrow_##OUT(&g);                                                                                              \
        }                                                                                                                        \
        activate_##OUT(p->table, p->entries, y, n);                                                                              \
    }

DEFINE_LINEAR_S16(s8)
DEFINE_LINEAR_S16(s16)
