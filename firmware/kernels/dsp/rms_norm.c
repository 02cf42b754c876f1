/* Root mean square normalization; int16 in words: squares by SMLALD, elements by one rounded high word, eight at a time. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
#include "picoformer/layer_norm_factor.h"

/* The squares of `eights` times eight elements at words, in C: for (i = 0; i < 8 * eights; i++) sum += x[i] * x[i]; eights > 0.
 */
__attribute__((naked, noinline)) static uint64_t add_squares(const int16_t *x __attribute__((unused)),
                                                             int32_t eights __attribute__((unused))) {
    __asm__ volatile(" push {r4, r5}\n"
                     " mov r4, r0\n"
                     " mov r5, r1\n"
                     " movs r0, #0\n"
                     " movs r1, #0\n"
                     " push {r6, r7}\n"
                     "1: ldmia.w r4!, {r2, r3, r6, r7}\n"
                     " smlald r0, r1, r2, r2\n smlald r0, r1, r3, r3\n smlald r0, r1, r6, r6\n smlald r0, r1, r7, r7\n"
                     " subs r5, r5, #1\n"
                     " bne.n 1b\n"
                     " pop {r6, r7}\n"
                     " pop {r4, r5}\n"
                     " bx lr\n");
}

/* `eights` times eight elements at words; in C: y[i] = clamp(zero_point + rounded high word of (x[i] * scale) * multiplier). */
typedef struct row_work {
    int32_t eights, scale, multiplier, zero_point;
} row_work;
__attribute__((naked, noinline)) static void normalize(const int16_t *x __attribute__((unused)),
                                                       int16_t *y __attribute__((unused)),
                                                       const row_work *work __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " ldmia.n r2, {r2, r3, r4, r5}\n"
                     "1: ldmia.w r0!, {r6-r9}\n"
                     " .irp word, r6, r7, r8, r9\n"
                     " smulbb r10, \\word, r3\n smultb r11, \\word, r3\n"
                     " smmlar r10, r10, r4, r5\n smmlar r11, r11, r4, r5\n"
                     " ssat r10, #16, r10\n ssat r11, #16, r11\n"
                     " pkhbt \\word, r10, r11, lsl #16\n"
                     " .endr\n"
                     " stmia.w r1!, {r6-r9}\n"
                     " subs r2, r2, #1\n"
                     " bne.n 1b\n"
                     " pop {r4-r11, pc}\n");
}

/* u as in plain C's rms_norm.c. */
static inline int32_t unit(int32_t x, int32_t zero, int32_t scale, int32_t multiplier) {
    return pf_rounded_high((x - zero) * scale, multiplier);
}

/* Elements whose squares, or which, go eight at a time; how many that were. A scale of 2^14 or less is a factor of 16 bits. */
#define ARE_WORDS_s8(P, X)     0
#define ARE_WORDS_s16(P, X)    ((P)->width >= 8 && (P)->zero_in == 0 && ((uintptr_t)(X)&3u) == 0u)
#define ARE_FAST_s8_s8(X, Y)   0
#define ARE_FAST_s8_s16(X, Y)  0
#define ARE_FAST_s16_s8(X, Y)  0
#define ARE_FAST_s16_s16(X, Y) (((uintptr_t)(Y)&3u) == 0u)

#define DEFINE_RMS_NORM(IN, OUT)                                                                                                 \
    void pf_rms_norm_##IN##_##OUT(const pf_rms_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows) {                 \
        const int32_t width = p->width, zero = p->zero_in, zero_point = p->zero_point, shift = p->shift;                         \
        const int32_t *gain = p->gain;                                                                                           \
        for (int32_t r = 0; r < rows; r++, x += width, y += width) {                                                             \
            const int32_t are_words = ARE_WORDS_##IN(p, x), eights = are_words ? width / 8 : 0;                                  \
            uint64_t squares = are_words ? add_squares((const int16_t *)(const void *)x, eights) : 0u;                           \
            for (int32_t i = 8 * eights; i < width; i++) {                                                                       \
                const int32_t d = x[i] - zero;                                                                                   \
                squares += (uint32_t)(d * d);                                                                                    \
            }                                                                                                                    \
            const pf_factor f = pf_norm_factor(p->mantissa, p->exponent, squares + (uint64_t)p->epsilon);                        \
            const int32_t scale = (int32_t)1 << (32 - f.shift);                                                                  \
            int32_t i = 0;                                                                                                       \
            if (gain == 0 && are_words && f.shift >= 18 && ARE_FAST_##IN##_##OUT(x, y)) {                                        \
                const row_work work = {eights, scale, f.multiplier, zero_point};                                                 \
                normalize((const int16_t *)(const void *)x, (int16_t *)(void *)y, &work);                                        \
                i = 8 * eights;                                                                                                  \
            }                                                                                                                    \
            for (; i < width && gain == 0; i++) {                                                                                \
                const int32_t value = zero_point + unit(x[i], zero, scale, f.multiplier);                                        \
                y[i] = PF_SATURATE(OUT, value);                                                                                  \
            }                                                                                                                    \
            for (; i < width; i++) {                                                                                             \
                const int64_t product = (int64_t)unit(x[i], zero, scale, f.multiplier) * gain[i];                                \
                const int64_t value = zero_point + pf_rounding_shift(product, shift);                                            \
                y[i] = PF_SATURATE(OUT, value);                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_RMS_NORM(s8, s8)
DEFINE_RMS_NORM(s8, s16)
DEFINE_RMS_NORM(s16, s8)
DEFINE_RMS_NORM(s16, s16)
