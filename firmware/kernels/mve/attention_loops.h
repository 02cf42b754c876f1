/* The three loops of an attention for MVE: scores of one query, their numerators, the weighted means of the values. */
#ifndef PF_MVE_ATTENTION_LOOPS_H
#define PF_MVE_ATTENTION_LOOPS_H

#include <stddef.h>
#include <stdint.h>

/* Keys lie in groups of 8: of each group the first vector of keys 0 2 4 6 1 3 5 7, then the second, and so on; so do scores, a
 * word each. In C, for each group:
 *     out[0..7] = products of q with keys 0 2 4 6 1 3 5 7 */
#define FOUR_KEYS(OP, T, A, B, C, D)                                                                                             \
    " vldmia r1!, {d0-d7}\n " OP "." T " " A ", q0, q4\n " OP "." T " " B ", q1, q4\n " OP "." T " " C ", q2, q4\n " OP "." T    \
    " " D ", q3, q4\n"
#define EIGHT_KEYS(OP, T) FOUR_KEYS(OP, T, "r0", "r2", "r4", "r6") FOUR_KEYS(OP, T, "r8", "r10", "r12", "lr")
#define STORE_SCORES      " stmia r3!, {r0, r2, r4, r6, r8, r10, r12, lr}\n"

/* Queries and keys of one vector; `groups` is even. */
#define DEFINE_SCORES_OF_ONE(NAME, T)                                                                                            \
    __attribute__((naked, noinline)) static void NAME(                                                                           \
        const void *keys __attribute__((unused)), const void *query __attribute__((unused)), int32_t *out __attribute__((unused)), \
        const int32_t *end __attribute__((unused))) {                                                                            \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d9}\n"                                                                                      \
                         " vldrb.u8 q4, [r1]\n"                                                                                  \
                         " mov r1, r0\n"                                                                                         \
                         " mov r5, r3\n"                                                                                         \
                         " mov r3, r2\n"                                                                                         \
                         "1:\n" EIGHT_KEYS("vmladav", T) STORE_SCORES EIGHT_KEYS("vmladav", T) STORE_SCORES " cmp r3, r5\n"       \
                         " bne 1b\n"                                                                                             \
                         " vpop {d8-d9}\n"                                                                                       \
                         " pop {r4-r11, pc}\n");                                                                                 \
    }

/* Of two or more, `vectors` of them. */
#define DEFINE_SCORES(NAME, T)                                                                                                   \
    __attribute__((naked, noinline)) static void NAME(                                                                           \
        const void *keys __attribute__((unused)), const void *query __attribute__((unused)), int32_t *out __attribute__((unused)), \
        const int32_t *end __attribute__((unused)), int32_t vectors __attribute__((unused))) {                                   \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d9}\n"                                                                                      \
                         " mov r9, r1\n"                                                                                         \
                         " mov r1, r0\n"                                                                                         \
                         " mov r11, r3\n"                                                                                        \
                         " mov r3, r2\n"                                                                                         \
                         "1: mov r5, r9\n"                                                                                       \
                         " ldr r7, [sp, #52]\n"                                                                                  \
                         " vldmia r5!, {d8-d9}\n" EIGHT_KEYS("vmladav", T) "2: vldmia r5!, {d8-d9}\n" EIGHT_KEYS("vmladava", T)   \
                         " subs r7, #1\n"                                                                                        \
                         " bne 2b\n" STORE_SCORES " cmp r3, r11\n"                                                               \
                         " bne 1b\n"                                                                                             \
                         " vpop {d8-d9}\n"                                                                                       \
                         " pop {r4-r11, pc}\n");                                                                                 \
    }

/* Scores to numerators `p`, key by key; returns their sum. In C:
 *     top = largest of 16 * sixteens scores
 *     for each: p = table[min(1023, rounded high word of (top - score) * multiplier)], total += p */
__attribute__((naked, noinline)) static uint32_t find_numerators(const int32_t *scores __attribute__((unused)),
                                                                 const uint16_t *table __attribute__((unused)),
                                                                 int32_t multiplier __attribute__((unused)),
                                                                 int32_t sixteens __attribute__((unused)),
                                                                 int16_t *p __attribute__((unused))) {
    __asm__ volatile(" push {r4-r6, lr}\n"
                     " vpush {d8-d15}\n"
                     " ldr r4, [sp, #80]\n"
                     " mov r5, r0\n"
                     " mov r6, #0x80000000\n"
                     " dls lr, r3\n"
                     "1: vldmia r5!, {d0-d7}\n"
                     " vmaxv.s32 r6, q0\n"
                     " vmaxv.s32 r6, q1\n"
                     " vmaxv.s32 r6, q2\n"
                     " vmaxv.s32 r6, q3\n"
                     " le lr, 1b\n"
                     " vdup.32 q7, r6\n"
                     " vdup.32 q6, r2\n"
                     " movw r5, #1023\n"
                     " vdup.16 q5, r5\n"
                     " mov r2, #0\n"
                     " dls lr, r3\n"
                     "2: vldmia r0!, {d0-d7}\n"
                     " vsub.i32 q0, q7, q0\n"
                     " vsub.i32 q1, q7, q1\n"
                     " vsub.i32 q2, q7, q2\n"
                     " vsub.i32 q3, q7, q3\n"
                     " vrmulh.s32 q0, q0, q6\n"
                     " vrmulh.s32 q1, q1, q6\n"
                     " vrmulh.s32 q2, q2, q6\n"
                     " vrmulh.s32 q3, q3, q6\n"
                     " vqmovnb.s32 q0, q0\n"
                     " vqmovnt.s32 q0, q1\n"
                     " vqmovnt.s32 q3, q3\n"
                     " vqmovnb.s32 q3, q2\n"
                     " vmin.u16 q0, q0, q5\n"
                     " vmin.u16 q3, q3, q5\n"
                     " vldrh.u16 q1, [r1, q0, uxtw #1]\n"
                     " vldrh.u16 q2, [r1, q3, uxtw #1]\n"
                     " vaddva.u16 r2, q1\n"
                     " vaddva.u16 r2, q2\n"
                     " vstmia r4!, {d2-d5}\n"
                     " le lr, 2b\n"
                     " mov r0, r2\n"
                     " vpop {d8-d15}\n"
                     " pop {r4-r6, pc}\n");
}

/* What the loop below works on. `p`: numerators, zeros up to a multiple of 32. `v`: of each 8 columns, of each 32 keys: the 32
 * values of the first column, then those of the others; `gap`: bytes of v behind the pieces that are summed. In C:
 *     for each column: y = clamp(rounded (high word of sum * multiplier) >> shift) */
typedef struct means {
    int32_t zeros[8];
    const int16_t *p;
    int32_t pieces;
    int32_t multiplier, minus_shift;
    const int16_t *v;
    int32_t gap, columns;
} means;

#define MEANS_PIECES     "32"
#define MEANS_MULTIPLIER "40"
#define MEANS_GAP        "52"
typedef char means_are_as_the_loop_reads_them[offsetof(means, p) == 32 && offsetof(means, gap) == 52 ? 1 : -1];

#define DOT_COLUMN(SUM)                                                                                                          \
    " vldmia r1!, {d0-d7}\n vmladava.s16 " SUM ", q0, q4\n vmladava.s16 " SUM ", q1, q5\n vmladava.s16 " SUM                     \
    ", q2, q6\n vmladava.s16 " SUM ", q3, q7\n"
#define STORE_MEANS_s8  " vqmovnb.s16 q0, q0\n vctp.16 r11\n vpst\n vstrbt.16 q0, [r7], #8\n"
#define STORE_MEANS_s16 " vctp.16 r11\n vpst\n vstrht.16 q0, [r7], #16\n"

#define DEFINE_MEANS(OUT)                                                                                                        \
    __attribute__((naked, noinline)) static void means_##OUT(const means *m __attribute__((unused)),                             \
                                                             PF_TYPE_##OUT *y __attribute__((unused))) {                         \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d15}\n"                                                                                     \
                         " mov r5, r0\n"                                                                                         \
                         " mov r7, r1\n"                                                                                         \
                         " ldr r1, [r0, #48]\n"                                                                                  \
                         " ldr r11, [r0, #56]\n"                                                                                 \
                         "1: ldrd r3, r9, [r5, #" MEANS_PIECES "]\n"                                                             \
                         " ldm r5, {r0, r2, r4, r6, r8, r10, r12, lr}\n"                                                         \
                         "2: vldmia r3!, {d8-d15}\n" DOT_COLUMN("r0") DOT_COLUMN("r2") DOT_COLUMN("r4") DOT_COLUMN("r6")         \
                             DOT_COLUMN("r8") DOT_COLUMN("r10") DOT_COLUMN("r12") DOT_COLUMN("lr") " subs r9, #1\n"              \
                         " bne 2b\n"                                                                                             \
                         " vmov q0[2], q0[0], r0, r8\n"                                                                          \
                         " vmov q0[3], q0[1], r4, r12\n"                                                                         \
                         " vmov q1[2], q1[0], r2, r10\n"                                                                         \
                         " vmov q1[3], q1[1], r6, lr\n"                                                                          \
                         " ldrd r0, r2, [r5, #" MEANS_MULTIPLIER "]\n"                                                           \
                         " ldr r4, [r5, #" MEANS_GAP "]\n"                                                                       \
                         " vdup.32 q2, r0\n"                                                                                     \
                         " vmulh.s32 q0, q0, q2\n"                                                                               \
                         " vmulh.s32 q1, q1, q2\n"                                                                               \
                         " vrshl.s32 q0, r2\n"                                                                                   \
                         " vrshl.s32 q1, r2\n"                                                                                   \
                         " vqmovnb.s32 q0, q0\n"                                                                                 \
                         " vqmovnt.s32 q0, q1\n" STORE_MEANS_##OUT " add r1, r4\n"                                               \
                         " subs r11, #8\n"                                                                                       \
                         " bgt 1b\n"                                                                                             \
                         " vpop {d8-d15}\n"                                                                                      \
                         " pop {r4-r11, pc}\n");                                                                                 \
    }

#endif
