/* Sums of one row of int16 for SMLALD: every word of int8 weights is loaded once, two outputs at a time.
 *
 * A halfword h of the weights is 256 * w1 + w0, one column of two rows. With 64-bit sums
 *     raw += h * x,  low += w0 * x   (SXTB16 makes w0 of h, for two columns at a time)
 * the sum of the second row is (raw - low) / 256, exactly: four products take two multiplications and one extraction. */
#include "linear_vector.h"

enum {
    TURN = 16,        /* groups of eight columns that the unrolled loop takes */
    GROUP_BYTES = 54, /* of its code */
};

/* Labels inside `pairs`. */
void pf_dsp_joined_loop(void), pf_dsp_joined_half(void), pf_dsp_joined_sums(void);

#define LABEL(NAME) " .global " #NAME "\n .thumb_func\n" #NAME ":\n"
#define TWO(W, X)   " smlald r10, r11, " W ", " X "\n sxtb16 " W ", " W "\n smlald r12, r9, " W ", " X "\n"
#define EIGHT       " ldmia.n r0!, {r2-r5}\n ldmia.w r1!, {r6-r8, lr}\n" TWO("r2", "r6") TWO("r3", "r7") TWO("r4", "r8") TWO("r5", "lr")
#define FOUR        " ldmia.n r0!, {r2, r3}\n ldmia.w r1!, {r6, r7}\n" TWO("r2", "r6") TWO("r3", "r7")

/* For each pair of outputs; in C, with the weights as words of two halfwords:
 *     for (raw = low = 0, j = 0; j < columns; j += 2) { raw += h[j] * x[j] + h[j + 1] * x[j + 1]; low += the same with w0; }
 * raw in r10, r11, low in r12, r9. Four columns that make no group come first. */
__attribute__((naked, noinline)) static void pairs(const void *weight __attribute__((unused)),
                                                   const pf_dsp_vector_frame *frame __attribute__((unused))) {
    __asm__ volatile(
        PF_DSP_VECTOR_BEGIN                                         /* goes on below */
            LABEL(pf_dsp_joined_half) FOUR " ldr.w pc, [sp, #28]\n" /* into the loop or behind it */
        LABEL(pf_dsp_joined_loop) " .rept 16\n" EIGHT " .endr\n"    /* TURN */
                                  " ldr r2, [sp, #24]\n"
                                  " cmp r1, r2\n"
                                  " bne.w pf_dsp_joined_loop\n" LABEL(pf_dsp_joined_sums) " subs.w r10, r10, r12\n"
                                                                                          " sbc.w r11, r11, r9\n"
                                                                                          " lsr.w r10, r10, #8\n"
                                                                                          " orr.w r10, r10, r11, lsl #24\n"
                                                                                          " ldr.w pc, [sp, #32]\n");
}

/* The second sum's upper word, of which `pairs` leaves 256 times as much, and all to keep. */
__attribute__((naked, noinline)) static void keep(void) {
    __asm__ volatile(" asr.w r11, r11, #8\n b.w pf_dsp_vector_keep\n");
}

/* The row at a word, filled up to a multiple of four, and not where y will be. */
static const int16_t *filled(const int16_t *x, int32_t k, int16_t *to, const void *y) {
    if ((((uintptr_t)x | (uint32_t)k) & 3u) == 0u && x != y) {
        return x;
    }
    int32_t i = 0;
    for (; i + 8 <= k; i += 8) {
        __builtin_memcpy(to + i, x + i, 16);
    }
    for (; i < k; i++) {
        to[i] = x[i];
    }
    for (; i % 4 != 0; i++) {
        to[i] = 0;
    }
    return to;
}

void pf_dsp_vector_joined(const pf_dsp_layer *layer, const int16_t *x, void *y, void *scratch, int32_t is_wide) {
    const uint32_t fours = ((uint32_t)layer->k + 3u) / 4u, groups = fours / 2u, first = (groups + TURN - 1u) % TURN + 1u;
    const pf_dsp_vector_kernel kernel = {pairs, pf_dsp_code(keep), (int32_t)fours * 8, 0};
    pf_dsp_vector_frame frame;
    const int16_t *const row = filled(x, layer->k, scratch, y);
    frame.x = row;
    frame.start[0] = frame.start[1] = frame.start[2] = frame.start[3] = 0u;
    frame.x_end = row + fours * 4u;
    frame.entry = groups == 0u ? pf_dsp_code(pf_dsp_joined_sums) : pf_dsp_code(pf_dsp_joined_loop) + (TURN - first) * GROUP_BYTES;
    frame.begin = fours % 2u != 0u ? pf_dsp_code(pf_dsp_joined_half) : frame.entry;
    pf_dsp_vector(layer, &kernel, &frame, y, is_wide && layer->headroom == 0);
}
