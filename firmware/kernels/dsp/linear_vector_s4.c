/* Sums of one row of int16 with int4 weights for SMLAD: two outputs at a time, a word the weights of four columns of both.
 *
 * The row lies in the scratch as a stream that says what comes next, so that nothing is counted in the loops: a block of 32
 * columns (all columns where there are no block multipliers) begins with what its two sums begin with and the address where to go
 * on, and after each 32 columns at most stands another address. Weights have 8 added (packed_rows_s4.h): a sum begins with -8
 * times the sum of the block's x. */
#include "linear_vector.h"

enum {
    GROUP_BYTES = 68, /* of the code for eight columns */
    BLOCK = 32,
};

/* Labels inside `pairs`; those with two addresses to choose from are jumped to from the stream. */
void pf_dsp_nibbles_loop(void), pf_dsp_nibbles_half(void), pf_dsp_nibbles_block(void), pf_dsp_nibbles_last(void),
    pf_dsp_nibbles_whole(void), pf_dsp_nibbles_begin(void);

#define LABEL(NAME) " .global " #NAME "\n .thumb_func\n" #NAME ":\n"
#define FOUR(W, X, Z)                                                                                                            \
    " and.w lr, r11, " W "\n smlad r8, lr, " X ", r8\n and.w lr, r11, " W ", lsr #4\n smlad r9, lr, " X ", r9\n"                 \
    " and.w lr, r11, " W ", lsr #8\n smlad r8, lr, " Z ", r8\n and.w lr, r11, " W ", lsr #12\n smlad r9, lr, " Z ", r9\n"
#define GO_ON " ldr.w pc, [r1], #4\n"

/* For each pair of outputs; in C, with n0 and n1 the halves of a byte of the weights, m0 and m1 the multipliers of a block:
 *     for each block {
 *         sum[0] = sum[1] = -8 * (x[0] + x[1] + ...);
 *         for each of its columns { sum[0] += n0 * x; sum[1] += n1 * x; }
 *         total[0] += m0 * sum[0], total[1] += m1 * sum[1];
 *     }
 * sums in r8, r9, totals in r12, r10; r11 is 0x000F000F. Without multipliers `whole` takes the place of `block` and `last`. */
__attribute__((naked, noinline)) static void pairs(const void *weight __attribute__((unused)),
                                                   const pf_dsp_vector_frame *frame __attribute__((unused))) {
    __asm__ volatile(PF_DSP_VECTOR_BEGIN LABEL(pf_dsp_nibbles_begin) " ldmia.w r1!, {r8, r9, pc}\n" LABEL(
        pf_dsp_nibbles_loop) " .rept 4\n"
                             " ldmia.n r0!, {r2, r3}\n ldmia.n r1!, {r4-r7}\n" FOUR("r2", "r4", "r5")
                                 FOUR("r3", "r6", "r7") " .endr\n" GO_ON LABEL(
                                     pf_dsp_nibbles_half) " ldr.w r2, [r0], #4\n ldmia.n r1!, {r4, r5}\n" FOUR("r2", "r4", "r5")
                                     GO_ON LABEL(
                                         pf_dsp_nibbles_block) " ldrd r2, r3, [sp, #64]\n"
                                                               " ldrb.w r4, [r2, r3]\n"
                                                               " ldrb r5, [r2], #1\n"
                                                               " str r2, [sp, #64]\n"
                                                               " mla r12, r8, r5, r12\n"
                                                               " mla r10, r9, r4, r10\n"
                                                               " ldmia.w r1!, {r8, r9, pc}\n" LABEL(
                                                                   pf_dsp_nibbles_last) " ldrd r2, r3, [sp, #64]\n"
                                                                                        " add r2, r3\n"
                                                                                        " str r2, [sp, #64]\n"
                                                                                        " ldr.w pc, [sp, #32]\n" LABEL(
                                                                                            pf_dsp_nibbles_whole) " mov r12, r8\n"
                                                                                                                  " mov r10, r9\n"
                                                                                                                  " ldr.w pc, "
                                                                                                                  "[sp, #32]\n");
}

/* Sums of 32 bits to keep. */
__attribute__((naked, noinline)) static void keep(void) {
    __asm__ volatile(" asr.w r9, r12, #31\n asr.w r11, r10, #31\n b.w pf_dsp_vector_keep\n");
}

/* 32 columns of a row that lies at a word, to `to`, and `sum` with all of them added. */
__attribute__((naked, noinline)) static int32_t
copy_block(const int16_t *x __attribute__((unused)), uint32_t *to __attribute__((unused)), int32_t sum __attribute__((unused))) {
    __asm__ volatile(" push {r4-r10}\n"
                     " mov.w r3, #0x00010001\n"
                     " .rept 2\n"
                     " ldmia.w r0!, {r4-r10, r12}\n stmia.w r1!, {r4-r10, r12}\n"
                     " .irp word, r4, r5, r6, r7, r8, r9, r10, r12\n"
                     " smlad r2, \\word, r3, r2\n"
                     " .endr\n"
                     " .endr\n"
                     " mov r0, r2\n"
                     " pop {r4-r10}\n"
                     " bx lr\n");
}

/* `count` columns, filled up to a multiple of four; the same otherwise. */
static int32_t copy_few(const int16_t *x, int32_t count, uint32_t *to, int32_t sum) {
    for (int32_t i = 0; i < count; i += 2) {
        const int16_t second = i + 1 < count ? x[i + 1] : 0;
        *to++ = (uint32_t)(uint16_t)x[i] | (uint32_t)(uint16_t)second << 16;
        sum += x[i] + second;
    }
    if ((count - 1) % 4 < 2) {
        *to = 0u;
    }
    return sum;
}

/* The stream of a row. */
static void arrange(const int16_t *x, int32_t k, int32_t has_blocks, uint32_t *to) {
    const uint32_t loop = pf_dsp_code(pf_dsp_nibbles_loop), half = pf_dsp_code(pf_dsp_nibbles_half);
    const uint32_t behind = pf_dsp_code(has_blocks ? pf_dsp_nibbles_block : pf_dsp_nibbles_whole);
    const int32_t are_words = (uintptr_t)x % 4u == 0u;
    uint32_t *start = to, *next = to + 2; /* where the sums of this block begin; where the next address belongs */
    int32_t sum = 0;
    to += 3;
    for (int32_t left = k; left > 0; left -= BLOCK, x += BLOCK) {
        if (left >= BLOCK) {
            *next = loop;
            sum = are_words ? copy_block(x, to, sum) : copy_few(x, BLOCK, to, sum);
            to += BLOCK / 2;
        } else {
            const int32_t fours = (left + 3) / 4, groups = fours / 2;
            sum = copy_few(x, left, to, sum);
            *next = groups != 0 ? loop + (uint32_t)(BLOCK / 8 - groups) * GROUP_BYTES : half;
            to += 2 * fours;
            if (groups != 0 && fours % 2 != 0) { /* an address between the groups and the last four */
                to[0] = to[-1];
                to[-1] = to[-2];
                to[-2] = half;
                to++;
            }
        }
        next = to++;
        if (has_blocks || left <= BLOCK) {
            start[0] = start[1] = (uint32_t)(-8 * sum);
            *next = behind;
            sum = 0;
            start = to;
            next = to + 2;
            to += 3;
        }
    }
    start[0] = start[1] = 0u;
    *next = pf_dsp_code(pf_dsp_nibbles_last);
}

void pf_dsp_vector_s4(const pf_dsp_layer *layer, const void *x, void *y, void *scratch) {
    const int32_t blocks = (layer->k + BLOCK - 1) / BLOCK;
    const pf_dsp_vector_kernel kernel = {pairs, pf_dsp_code(keep), (layer->k + 3) / 4 * 4, blocks};
    pf_dsp_vector_frame frame;
    arrange(x, layer->k, layer->block_multiplier != 0, scratch);
    frame.x = scratch;
    frame.start[0] = frame.start[1] = frame.start[3] = 0u;
    frame.start[2] = 0x000F000Fu;
    frame.begin = pf_dsp_code(pf_dsp_nibbles_begin);
    frame.second = blocks;
    pf_dsp_vector(layer, &kernel, &frame, y, 0);
}
