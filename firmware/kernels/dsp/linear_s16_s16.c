/* Linear layers with int16 weights on int16 activations for SMLALD: an output at a time, its sum rescaled in 64 bits. */
#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

#include "word_rows.h"

enum { KEPT = 16 }; /* outputs whose sums are kept at a time, where plain C makes the ending */

/* Endings: jumped to, not called; r0 shows the weights of the next output. */
#define DEFINE_CODE(NAME, CODE)                                                                                                  \
    __attribute__((naked, noinline)) static void NAME(void) {                                                                    \
        __asm__ volatile(CODE PF_DSP_NEXT_WORD_ROW);                                                                             \
    }

/* In C: y = clamp(zero_point + (((sum + bias) << left) * multiplier + 2^31 >> 32)), the product of a 64-bit sum in two parts:
 * high and low word by the multiplier. lr shows the last words of the frame: r2 bias, r3 factor, r4 y, r5 end, r6 left, r7
 * zero point. */
#define SUM                                                                                                                      \
    " add.w lr, sp, #" PF_DSP_WORD_OWN                                                                                           \
    "\n ldm.w lr, {r2-r7}\n ldr.w r8, [r2], #4\n adds.w r12, r12, r8\n adc.w r11, r11, r8, asr #31\n"                            \
    " ldrh r8, [r3], #2\n and.w r9, r8, #15\n lsl.w r8, r8, r9\n"
#define SHIFT " rsb.w r9, r6, #32\n lsl.w r11, r11, r6\n lsr.w r9, r12, r9\n orr.w r11, r11, r9\n lsl.w r12, r12, r6\n"
#define RESCALE                                                                                                                  \
    " umull r9, r10, r12, r8\n movs r1, #0\n adds.w r9, r9, #0x80000000\n adc.w r10, r10, r1\n smlal r10, r1, r11, r8\n"         \
    " cmp.w r1, r10, asr #31\n beq.n 1f\n mvn.w r10, #0x80000000\n eor.w r10, r10, r1, asr #31\n1: qadd r10, r10, r7\n"
#define KEEP(BITS, STORE, STEP) " ssat r10, #" BITS ", r10\n " STORE " r10, [r4], #" STEP "\n stmia.w lr, {r2-r4}\n cmp r4, r5\n"

DEFINE_CODE(plain_s8, SUM RESCALE KEEP("8", "strb", "1"))
DEFINE_CODE(plain_s16, SUM RESCALE KEEP("16", "strh", "2"))
DEFINE_CODE(shifted_s8, SUM SHIFT RESCALE KEEP("8", "strb", "1"))
DEFINE_CODE(shifted_s16, SUM SHIFT RESCALE KEEP("16", "strh", "2"))
/* The sums as they are to y, for plain C. */
DEFINE_CODE(keep, " ldrd r4, r5, [sp, #36]\n strd r12, r11, [r4], #8\n str r4, [sp, #36]\n cmp r4, r5\n")

static inline uint32_t code(void (*label)(void)) {
    return (uint32_t)(uintptr_t)label;
}

/* One row where x and the weights lie in words. */
static void words(const pf_linear_w16 *p, const int16_t *x, void *y, int32_t out_bytes) {
    static void (*const plain[2][2])(void) = {{plain_s8, shifted_s8}, {plain_s16, shifted_s16}};
    const int32_t left = 32 - p->shift;
    pf_dsp_word_frame frame;
    pf_dsp_set_words(&frame, x, p->k / 2);
    if (p->entries == 0) {
        frame.finish = code(plain[out_bytes - 1][left > 0]);
        frame.own.linear.bias = p->bias;
        frame.own.linear.factor = p->factor;
        frame.own.linear.y = y;
        frame.own.linear.end = (const char *)y + p->n * out_bytes;
        frame.own.linear.left = left;
        frame.own.linear.zero_point = p->zero_point;
        pf_dsp_word_rows(p->weight, &frame);
        return;
    }
    int64_t sums[KEPT];
    frame.finish = code(keep);
    for (int32_t i = 0; i < p->n; i += KEPT) {
        const int32_t some = p->n - i < KEPT ? p->n - i : KEPT;
        frame.own.linear.y = sums;
        frame.own.linear.end = sums + some;
        pf_dsp_word_rows(p->weight + i * p->k, &frame);
        for (int32_t c = 0, o = i; c < some; c++, o++) {
            const int32_t value = p->zero_point + pf_rescale_wide(p->bias[o] + sums[c], pf_multiplier(p->factor[o]), p->shift);
            if (out_bytes == 1) {
                int8_t *const to = (int8_t *)y + o;
                *to = pf_linear_s8(p->table, p->entries, *to, value);
            } else {
                int16_t *const to = (int16_t *)y + o;
                *to = pf_linear_s16(p->table, p->entries, *to, value);
            }
        }
    }
}

#define DEFINE_LINEAR_W16(OUT)                                                                                                   \
    void pf_linear_s16_s16_##OUT(const pf_linear_w16 *p, const int16_t *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {      \
        (void)scratch;                                                                                                           \
        const int32_t n = p->n, k = p->k;                                                                                        \
        for (int32_t r = 0; r < rows; r++, x += k, y += n) {                                                                     \
            if ((((uintptr_t)x | (uintptr_t)p->weight | (uint32_t)k << 1) & 3u) == 0u) {                                         \
                words(p, x, y, (int32_t)sizeof *y);                                                                              \
                continue;                                                                                                        \
            }                                                                                                                    \
            const int16_t *w = p->weight;                                                                                        \
            for (int32_t i = 0; i < n; i++, w += k) {                                                                            \
                int64_t sum = p->bias[i];                                                                                        \
                for (int32_t j = 0; j < k; j++) {                                                                                \
                    sum += (int32_t)w[j] * x[j];                                                                                 \
                }                                                                                                                \
                const int32_t value = p->zero_point + pf_rescale_wide(sum, pf_multiplier(p->factor[i]), p->shift);               \
                y[i] = pf_linear_##OUT(p->table, p->entries, y[i], value);                                                       \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_LINEAR_W16(s8)
DEFINE_LINEAR_W16(s16)
