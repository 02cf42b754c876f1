/* A linear layer for MVE: eight outputs of a row at a time, for any number of rows.
 *
 * The weights of a group of eight rows lie as the loop reads them: K, filled up with zeros to whole vectors of 16 bytes, in
 * pieces of 4 vectors, a shorter one first; of each piece the vectors of row 0, then those of row 1, up to row 7. */
#ifndef PF_MVE_LINEAR_GROUP_H
#define PF_MVE_LINEAR_GROUP_H

#include <arm_mve.h>
#include <stddef.h>

#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

#define GROUP 8

/* What one call of a loop below works on. `pieces`: of 4 vectors, one less than there are; `start`: see start_of. multiplier: of
 * the even outputs, then of the odd ones. In C: for each row of x: sum[c] = bias[c] + the products of the row with row c of the
 * weight y[c] = clamp(zero_point + rounded high word of (sum[c] << left) * multiplier[c])   c < count; where it `adds` (16 bits),
 * y[c] = clamp(y[c] + that) */
typedef struct group {
    const void *w;
    int32_t pieces, start;
    const void *x, *x_end;
    void *y;
    int32_t y_step; /* bytes */
    int32_t zero_point, count;
    int32_t bias[GROUP], multiplier[GROUP], left[4];
    int32_t adds;
} group;

#define GROUP_MULTIPLIER "68"
#define GROUP_ADDS       "116"
typedef char group_is_as_the_loop_reads_it[offsetof(group, multiplier) == 68 && offsetof(group, adds) == 116 ? 1 : -1];

/* Four or three vectors of weights into q0 to q3: as they lie, or int8 as int16. */
#define WHOLE_4  " vldmia r1!, {d0-d7}\n"
#define WHOLE_3  " vldmia r1!, {d0-d5}\n"
#define NARROW_3 " vldrb.s16 q0, [r1], #8\n vldrb.s16 q1, [r1], #8\n vldrb.s16 q2, [r1], #8\n"
#define NARROW_4 NARROW_3 " vldrb.s16 q3, [r1], #8\n"

/* Eight sums with the vectors of x in q4 to q7: 4, 3, 2 or 1 vectors of each row of weights, loaded with LOAD. */
#define SUMS " .irp sum, r0, r2, r4, r6, r8, r10, r12, lr\n"
#define EIGHT_OF_4(T, LOAD)                                                                                                      \
    SUMS LOAD " vmladava." T " \\sum, q0, q4\n vmladava." T " \\sum, q1, q5\n vmladava." T " \\sum, q2, q6\n vmladava." T        \
              " \\sum, q3, q7\n .endr\n"
#define EIGHT_OF_3(T, LOAD)                                                                                                      \
    SUMS LOAD " vmladava." T " \\sum, q0, q4\n vmladava." T " \\sum, q1, q5\n vmladava." T " \\sum, q2, q6\n .endr\n"
#define TWO_OF_2(T, LOAD, A, B)                                                                                                  \
    LOAD " vmladava." T " " A ", q0, q4\n vmladava." T " " A ", q1, q5\n vmladava." T " " B ", q2, q4\n vmladava." T " " B       \
         ", q3, q5\n"
#define EIGHT_OF_2(T, LOAD)                                                                                                      \
    TWO_OF_2(T, LOAD, "r0", "r2")                                                                                                \
    TWO_OF_2(T, LOAD, "r4", "r6") TWO_OF_2(T, LOAD, "r8", "r10") TWO_OF_2(T, LOAD, "r12", "lr")
#define FOUR_OF_1(T, LOAD, A, B, C, D)                                                                                           \
    LOAD " vmladava." T " " A ", q0, q4\n vmladava." T " " B ", q1, q4\n vmladava." T " " C ", q2, q4\n vmladava." T " " D       \
         ", q3, q4\n"
#define EIGHT_OF_1(T, LOAD) FOUR_OF_1(T, LOAD, "r0", "r2", "r4", "r6") FOUR_OF_1(T, LOAD, "r8", "r10", "r12", "lr")

#define NO_SHIFT " vldmia r5, {d4-d7}\n"
#define SHIFT    " vldmia r5, {d4-d9}\n vshl.s32 q0, q0, q4\n vshl.s32 q1, q1, q4\n"
#define STORE_s8 " vqadd.s16 q0, q0, r2\n vqmovnb.s16 q0, q0\n vpst\n vstrbt.16 q0, [r7]\n"
#define STORE_s16                                                                                                                \
    " ldr r4, [sp, #20]\n vqadd.s16 q0, q0, r2\n cbz r4, 6f\n vpst\n vldrht.u16 q1, [r7]\n vqadd.s16 q0, q0, q1\n"               \
    "6: vpst\n vstrht.16 q0, [r7]\n"

/* T: s8 or s16, the elements of x and of the weights as they lie here. Sums in r0, r2, … r12, lr; r1 weights, r3 x, r11 its
 * end, r5 parameters, r7 y, r9 pieces left. On the stack: w, pieces, where a row starts, y_step, zero_point, adds. */
#define DEFINE_GROUP(NAME, T, OUT, SHIFT, LOAD_4, LOAD_3)                                                                        \
    __attribute__((naked, noinline, aligned(4))) static void NAME(const group *g __attribute__((unused))) {                      \
        __asm__ volatile(                                                                                                        \
            " push {r4-r11, lr}\n"                                                                                               \
            " vpush {d8-d15}\n"                                                                                                  \
            " ldm r0, {r1, r2, r4}\n"                                                                                            \
            " ldrd r3, r11, [r0, #12]\n"                                                                                         \
            " ldrd r7, r6, [r0, #20]\n"                                                                                          \
            " ldrd r8, r9, [r0, #28]\n"                                                                                          \
            " add r5, r0, #" GROUP_MULTIPLIER "\n"                                                                               \
            " vctp.16 r9\n"                                                                                                      \
            " adr r9, 9f\n"                                                                                                      \
            " ldr r4, [r9, r4, lsl #2]\n"                                                                                        \
            " add r4, r4, r9\n"                                                                                                  \
            " ldr r10, [r0, #" GROUP_ADDS "]\n"                                                                                  \
            " push {r1, r2, r4, r6, r8, r10}\n"                                                                                  \
            " 1: ldmdb r5, {r0, r2, r4, r6, r8, r10, r12, lr}\n"                                                                 \
            " ldm sp, {r1, r9, pc}\n"                                                                                            \
            " .align 2\n"                                                                                                        \
            " 9: .word 2f - 9b + 1, 10f - 9b + 1, 20f - 9b + 1, 30f - 9b + 1, 5f - 9b + 1\n"                                     \
            "10: vldmia r3!, {d8-d9}\n" EIGHT_OF_1(                                                                              \
                T, LOAD_4) " b 4f\n"                                                                                             \
                           "20: vldmia r3!, {d8-d11}\n" EIGHT_OF_2(                                                              \
                               T, LOAD_4) " b 4f\n"                                                                              \
                                          "30: vldmia r3!, {d8-d13}\n" EIGHT_OF_3(                                               \
                                              T, LOAD_3) "4: cmp r9, #0\n"                                                       \
                                                         " blt 3f\n"                                                             \
                                                         " beq 5f\n"                                                             \
                                                         "2: vldmia r3!, {d8-d15}\n" EIGHT_OF_4(                                 \
                                                             T, LOAD_4) " subs r9, #1\n"                                         \
                                                                        " bne 2b\n"                                              \
                                                                        "5: vldmia r3!, {d8-d15}\n" EIGHT_OF_4(                  \
                                                                            T, LOAD_4) "3:\n"                                    \
                                                                                       " vmov q0[2], q0[0], r0, r8\n"            \
                                                                                       " vmov q0[3], q0[1], r4, r12\n"           \
                                                                                       " vmov q1[2], q1[0], r2, r10\n"           \
                                                                                       " vmov q1[3], q1[1], r6, lr\n" SHIFT      \
                                                                                       " vrmulh.s32 q0, q0, q2\n"                \
                                                                                       " vrmulh.s32 q1, q1, q3\n"                \
                                                                                       " ldrd r0, r2, [sp, #12]\n"               \
                                                                                       " vqmovnb.s32 q0, q0\n"                   \
                                                                                       " vqmovnt.s32 q0, q1\n" STORE_##OUT       \
            " add r7, r0\n"                                                                                                      \
            " cmp r3, r11\n"                                                                                                     \
            " bne 1b\n"                                                                                                          \
            " add sp, #24\n"                                                                                                     \
            " vpop {d8-d15}\n"                                                                                                   \
            " pop {r4-r11, pc}\n");                                                                                              \
    }

/* Both loops for one pair of types: without a left shift, which is the rule, and with it. WIDTH: how weights are loaded. */
#define DEFINE_GROUPS(NAME, T, OUT, WIDTH)                                                                                       \
    DEFINE_GROUP(plain_##NAME, T, OUT, NO_SHIFT, WIDTH##_4, WIDTH##_3)                                                           \
    DEFINE_GROUP(shifted_##NAME, T, OUT, SHIFT, WIDTH##_4, WIDTH##_3)                                                            \
    static void group_##NAME(const group *g) {                                                                                   \
        if (g->left[0] == 0) {                                                                                                   \
            plain_##NAME(g);                                                                                                     \
        } else {                                                                                                                 \
            shifted_##NAME(g);                                                                                                   \
        }                                                                                                                        \
    }

/* Where the loops begin with a row of `vectors`: with its shorter piece, with the first of several whole ones, with the last. */
static inline int32_t start_of(int32_t vectors) {
    return (vectors & 3) != 0 ? vectors & 3 : vectors == 4 ? 4 : 0;
}

/* Outputs from a first one on, zeros where there are no more. */
static void set_outputs(group *g, const int32_t *bias, const uint16_t *factor, int32_t n) {
    g->count = n < GROUP ? n : GROUP;
    if (n >= GROUP) {
        const uint16x8_t factors = vld1q_u16(factor);
        const uint16x8_t exponents = vandq_u16(factors, vdupq_n_u16(15));
        const uint32x4_t even = vshlq_u32(vmovlbq_u16(factors), vreinterpretq_s32_u32(vmovlbq_u16(exponents)));
        const uint32x4_t odd = vshlq_u32(vmovltq_u16(factors), vreinterpretq_s32_u32(vmovltq_u16(exponents)));
        vst1q_s32(g->bias, vld1q_s32(bias));
        vst1q_s32(g->bias + 4, vld1q_s32(bias + 4));
        vst1q_s32(g->multiplier, vreinterpretq_s32_u32(even));
        vst1q_s32(g->multiplier + 4, vreinterpretq_s32_u32(odd));
        return;
    }
    for (int32_t c = 0; c < GROUP; c++) {
        g->bias[c] = c < n ? bias[c] : 0;
        g->multiplier[(c & 1) * 4 + c / 2] = c < n ? pf_multiplier(factor[c]) : 0;
    }
}

/* Sum c of a group for one row of x, as the loop has it before it is shifted. */
#define DEFINE_SUM(IN)                                                                                                           \
    __attribute__((noinline)) static int32_t sum_##IN(const group *g, const PF_TYPE_##IN *x, int32_t c) {                        \
        const PF_TYPE_##IN *w = g->w;                                                                                            \
        int32_t width = (g->start & 3) * (16 / (int32_t)sizeof *x), sum = g->bias[c];                                            \
        for (int32_t piece = -1; piece <= g->pieces; piece++) {                                                                  \
            for (int32_t i = 0; i < width; i++) {                                                                                \
                sum += w[c * width + i] * *x++;                                                                                  \
            }                                                                                                                    \
            w += GROUP * width;                                                                                                  \
            width = 64 / (int32_t)sizeof *x;                                                                                     \
        }                                                                                                                        \
        return sum;                                                                                                              \
    }

#endif
