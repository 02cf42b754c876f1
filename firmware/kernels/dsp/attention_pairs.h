/* Products of two vectors with many pairs of vectors for SMLAD, what an attention consists of: scores, and weighted means.
 *
 * Everything multiplied lies in words of two int16, two vectors a and b side by side, zeros or repetitions up to a multiple of
 * four elements: a-word, a-word, b-word, b-word, then the next four elements. How four elements spread over two words is the
 * business of who loads them. */
#ifndef PF_DSP_ATTENTION_PAIRS_H
#define PF_DSP_ATTENTION_PAIRS_H

#include <stdint.h>

#define PF_ALL_EQUAL 0x00010001u

/* Words of two vectors side by side. */
static inline int32_t pair_words(int32_t count) {
    return (int32_t)(((uint32_t)count + 3u) & ~3u);
}

/* Low half of a, low half of b above it; high half of b above the high half of a. */
static inline uint32_t low_halves(uint32_t a, uint32_t b) {
    uint32_t result;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(a), "r"(b));
    return result;
}
static inline uint32_t high_halves(uint32_t a, uint32_t b) {
    uint32_t result;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(result) : "r"(b), "r"(a));
    return result;
}

/* What pf_dsp_pairs works on: the vectors at w (two of them, w to w_end) with each pair of vectors from a to a_end. In C:
 *     do {
 *         s[4] = {0};
 *         for (w = ...; w != w_end; w += 4, a += 4)
 *             s[0] += w0 . a0, s[1] += w1 . a0, s[2] += w0 . a1, s[3] += w1 . a1 over four elements;
 *         as SCORES: out[0..3] = s, out += 4; top[0] = max(top[0], s[0], s[2]), top[1] = max(top[1], s[1], s[3]);
 *         as MEANS: (s * multiplier + half * 2^32) >> 32 >> shift, clamped, of w0 to y0[0..1] and of w1 to y1[0..1], y0 += 2,
 *         y1 += 2; a += gap bytes;
 *     } while (a != a_end);
 * The inner loop is unrolled 16 times behind its first turn; `skip` bytes of that are left out at first, so that any length
 * comes out even, and vectors of more than 17 words by 4 (`is_long`) come back. */
enum { PF_SCORES, PF_MEANS_s8, PF_MEANS_s16 };

typedef struct pf_rescaling {
    int32_t multiplier, half, shift;
} pf_rescaling;
typedef struct pf_pairs {
    const uint32_t *w;
    union {
        struct {
            int32_t *out;
            const uint32_t *key_end;
            int32_t top[2];
        } scores;
        struct {
            pf_rescaling by[2];
            void *y[2];
        } means;
    } as;
    uint32_t skip, is_long;
    const uint32_t *w_end;
    uint32_t kind, gap;
    const uint32_t *a_end, *a;
} pf_pairs;

static inline void pf_set_length(pf_pairs *work, int32_t words) {
    const uint32_t more = (uint32_t)words / 4u - 1u;
    work->skip = more == 0u ? 640u : (0u - more) % 16u * 40u;
    work->is_long = more > 16u;
    work->w_end = work->w + words;
}

/* r0: w, r1: a; sums in r10, r11 (first of a), r12, lr (second). At sp lies a copy of the struct, whose skip, is_long and kind
 * became where the body is entered, where it is left, and what comes then. */
__attribute__((naked, noinline)) static void pf_dsp_pairs(pf_pairs *work __attribute__((unused))) {
    __asm__ volatile(" push {r0, r4-r11, lr}\n"
                     " ldr r1, [r0, #60]\n"
                     " add r2, r0, #36\n"
                     " ldmia r2, {r4-r9}\n" /* skip, is_long, w_end, kind, gap, a_end */
                     " adr.w r2, 2f\n"
                     " add r4, r4, r2\n"
                     " adr.w r3, 5f\n"
                     " cmp r7, #1\n"
                     " it eq\n"
                     " adreq.w r3, 6f\n" /* no difference of labels: of one that is to come clang 14 makes a 0 */
                     " it hi\n"
                     " adrhi.w r3, 7f\n"
                     " orr r7, r3, #1\n"
                     " orr r4, r4, #1\n"
                     " cmp r5, #0\n"
                     " adr.w r3, 3f\n"
                     " ite ne\n"
                     " orrne r5, r3, #1\n"
                     " moveq r5, r7\n"
                     " push {r4-r9}\n"
                     " ldmia r0, {r2-r10}\n"
                     " push {r2-r10}\n"
                     " mov r0, r2\n"
                     "1: ldmia.w r0!, {r2-r5}\n"
                     " ldmia.w r1!, {r6-r9}\n"
                     " smuad r10, r2, r6\n smuad r11, r4, r6\n smuad r12, r2, r8\n smuad lr, r4, r8\n"
                     " smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n smlad r12, r3, r9, r12\n smlad lr, r5, r9, lr\n"
                     " ldr.w pc, [sp, #36]\n"
                     "2:\n .rept 16\n"
                     " ldmia.w r0!, {r2-r5}\n ldmia.w r1!, {r6-r9}\n"
                     " smlad r10, r2, r6, r10\n smlad r11, r4, r6, r11\n smlad r12, r2, r8, r12\n smlad lr, r4, r8, lr\n"
                     " smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n smlad r12, r3, r9, r12\n smlad lr, r5, r9, lr\n"
                     " .endr\n"
                     " ldr.w pc, [sp, #40]\n"
                     "3: ldr r2, [sp, #44]\n"
                     " cmp r0, r2\n"
                     " bne 2b\n"
                     " ldr.w pc, [sp, #48]\n"
                     /* scores: the largest of each query is kept where the struct has it */
                     " .balign 4\n"
                     "5: ldm.w sp, {r0, r2-r5}\n"
                     " stmia.w r2!, {r10, r11, r12, lr}\n"
                     " str r2, [sp, #4]\n"
                     " cmp r10, r4\n bgt 10f\n"
                     "11: cmp r11, r5\n bgt 12f\n"
                     "13: cmp r12, r4\n bgt 14f\n"
                     "15: cmp lr, r5\n bgt 16f\n"
                     "17: cmp r1, r3\n"
                     " bne.w 1b\n"
                     " ldrd r4, r5, [sp, #12]\n"
                     " ldr r0, [sp, #60]\n"
                     " strd r4, r5, [r0, #12]\n"
                     " b 8f\n"
                     "10: mov r4, r10\n str r4, [sp, #12]\n b 11b\n"
                     "12: mov r5, r11\n str r5, [sp, #16]\n b 13b\n"
                     "14: mov r4, r12\n str r4, [sp, #12]\n b 15b\n"
                     "16: mov r5, lr\n str r5, [sp, #16]\n b 17b\n"
                     " .macro PF_MEANS bits, store, step\n"
                     " ldm.w sp, {r0, r2-r9}\n" /* w; multiplier, half, shift of each; y0, y1 */
                     " smmla r10, r10, r2, r3\n smmla r12, r12, r2, r3\n smmla r11, r11, r5, r6\n smmla lr, lr, r5, r6\n"
                     " asr.w r10, r10, r4\n asr.w r12, r12, r4\n asr.w r11, r11, r7\n asr.w lr, lr, r7\n"
                     " ssat r10, #\\bits, r10\n ssat r12, #\\bits, r12\n ssat r11, #\\bits, r11\n ssat lr, #\\bits, lr\n"
                     " \\store r10, [r8], #\\step\n \\store r12, [r8], #\\step\n"
                     " \\store r11, [r9], #\\step\n \\store lr, [r9], #\\step\n"
                     " strd r8, r9, [sp, #28]\n"
                     " ldrd r2, r3, [sp, #52]\n"
                     " add r1, r1, r2\n"
                     " cmp r1, r3\n"
                     " bne.w 1b\n"
                     " .endm\n"
                     " .balign 4\n"
                     "6: PF_MEANS 8, strb, 1\n"
                     " b 8f\n"
                     " .balign 4\n"
                     "7: PF_MEANS 16, strh, 2\n"
                     " .purgem PF_MEANS\n"
                     "8: add sp, #60\n"
                     " pop {r0, r4-r11, pc}\n");
}

#endif
