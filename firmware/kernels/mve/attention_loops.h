/* The three loops of an attention for MVE: scores of one query, their numerators, the weighted means of the values. */
#ifndef PF_MVE_ATTENTION_LOOPS_H
#define PF_MVE_ATTENTION_LOOPS_H

#include <stddef.h>
#include <stdint.h>

/* Keys lie in groups of 8: of each group the first vector of keys 0 2 4 6 1 3 5 7, then the second, and so on; so do scores, a
 * word each. In C, for each group:
 *     out[0..7] = products of q with keys 0 2 4 6 1 3 5 7 */
#define FOUR_KEYS(OP, T, Q, A, B, C, D)                                                                                          \
    " vldmia r1!, {d0-d7}\n " OP "." T " " A ", q0, " Q "\n " OP "." T " " B ", q1, " Q "\n " OP "." T " " C ", q2, " Q "\n " OP \
    "." T " " D ", q3, " Q "\n"
#define EIGHT_KEYS(OP, T, Q) FOUR_KEYS(OP, T, Q, "r0", "r2", "r4", "r6") FOUR_KEYS(OP, T, Q, "r8", "r10", "r12", "lr")
#define STORE_SCORES         " stmia r3!, {r0, r2, r4, r6, r8, r10, r12, lr}\n"
#define SCORES_OF_1(T)       EIGHT_KEYS("vmladav", T, "q4") STORE_SCORES EIGHT_KEYS("vmladav", T, "q4") STORE_SCORES
#define SCORES_OF_2(T)       EIGHT_KEYS("vmladav", T, "q4") EIGHT_KEYS("vmladava", T, "q5") STORE_SCORES

/* Queries and keys of one vector; `groups` is even. */
#define DEFINE_SCORES_OF_ONE(NAME, T)                                                                                            \
    __attribute__((naked, noinline)) static void NAME(                                                                           \
        const void *keys __attribute__((unused)), const void *query __attribute__((unused)),                                     \
        int32_t *out __attribute__((unused)), const int32_t *end __attribute__((unused))) {                                      \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d9}\n"                                                                                      \
                         " vldrb.u8 q4, [r1]\n"                                                                                  \
                         " mov r1, r0\n"                                                                                         \
                         " mov r5, r3\n"                                                                                         \
                         " mov r3, r2\n"                                                                                         \
                         "1:\n" SCORES_OF_1(T) " cmp r3, r5\n"                                                                   \
                                               " bne 1b\n"                                                                       \
                                               " vpop {d8-d9}\n"                                                                 \
                                               " pop {r4-r11, pc}\n");                                                           \
    }

/* Of two or more, `vectors` of them. */
#define DEFINE_SCORES(NAME, T)                                                                                                   \
    __attribute__((naked, noinline)) static void NAME(                                                                           \
        const void *keys __attribute__((unused)), const void *query __attribute__((unused)),                                     \
        int32_t *out __attribute__((unused)), const int32_t *end __attribute__((unused)),                                        \
        int32_t vectors __attribute__((unused))) {                                                                               \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d9}\n"                                                                                      \
                         " mov r9, r1\n"                                                                                         \
                         " mov r1, r0\n"                                                                                         \
                         " mov r11, r3\n"                                                                                        \
                         " mov r3, r2\n"                                                                                         \
                         "1: mov r5, r9\n"                                                                                       \
                         " ldr r7, [sp, #52]\n"                                                                                  \
                         " vldmia r5!, {d8-d9}\n" EIGHT_KEYS("vmladav", T, "q4") "2: vldmia r5!, {d8-d9}\n" EIGHT_KEYS(          \
                             "vmladava", T, "q4") " subs r7, #1\n"                                                               \
                                                  " bne 2b\n" STORE_SCORES " cmp r3, r11\n"                                      \
                                                  " bne 1b\n"                                                                    \
                                                  " vpop {d8-d9}\n"                                                              \
                                                  " pop {r4-r11, pc}\n");                                                        \
    }

/* Scores from r5 on to numerators at r4; r1 table, r2 multiplier, r3 sixteens of scores, r0 as r5. Leaves their sum in r0. In C:
 *     top = largest of 16 * sixteens scores
 *     for each: p = table[min(1023, rounded high word of (top - score) * multiplier)], total += p */
#define FIND_NUMERATORS                                                                                                          \
    " mov r6, #0x80000000\n"                                                                                                     \
    " dls lr, r3\n"                                                                                                              \
    " 1: vldmia r5!, {d0-d7}\n"                                                                                                  \
    " vmaxv.s32 r6, q0\n"                                                                                                        \
    " vmaxv.s32 r6, q1\n"                                                                                                        \
    " vmaxv.s32 r6, q2\n"                                                                                                        \
    " vmaxv.s32 r6, q3\n"                                                                                                        \
    " le lr, 1b\n"                                                                                                               \
    " vdup.32 q7, r6\n"                                                                                                          \
    " vdup.32 q6, r2\n"                                                                                                          \
    " movw r5, #1023\n"                                                                                                          \
    " vdup.16 q5, r5\n"                                                                                                          \
    " mov r2, #0\n"                                                                                                              \
    " dls lr, r3\n"                                                                                                              \
    " 2: vldmia r0!, {d0-d7}\n"                                                                                                  \
    " vsub.i32 q0, q7, q0\n"                                                                                                     \
    " vsub.i32 q1, q7, q1\n"                                                                                                     \
    " vsub.i32 q2, q7, q2\n"                                                                                                     \
    " vsub.i32 q3, q7, q3\n"                                                                                                     \
    " vrmulh.s32 q0, q0, q6\n"                                                                                                   \
    " vrmulh.s32 q1, q1, q6\n"                                                                                                   \
    " vrmulh.s32 q2, q2, q6\n"                                                                                                   \
    " vrmulh.s32 q3, q3, q6\n"                                                                                                   \
    " vqmovnb.s32 q0, q0\n"                                                                                                      \
    " vqmovnt.s32 q0, q1\n"                                                                                                      \
    " vqmovnt.s32 q3, q3\n"                                                                                                      \
    " vqmovnb.s32 q3, q2\n"                                                                                                      \
    " vmin.u16 q0, q0, q5\n"                                                                                                     \
    " vmin.u16 q3, q3, q5\n"                                                                                                     \
    " vldrh.u16 q1, [r1, q0, uxtw #1]\n"                                                                                         \
    " vldrh.u16 q2, [r1, q3, uxtw #1]\n"                                                                                         \
    " vaddva.u16 r2, q1\n"                                                                                                       \
    " vaddva.u16 r2, q2\n"                                                                                                       \
    " vstmia r4!, {d2-d5}\n"                                                                                                     \
    " le lr, 2b\n"                                                                                                               \
    " mov r0, r2\n"

__attribute__((naked, noinline)) static uint32_t find_numerators(const int32_t *scores __attribute__((unused)),
                                                                 const uint16_t *table __attribute__((unused)),
                                                                 int32_t multiplier __attribute__((unused)),
                                                                 int32_t sixteens __attribute__((unused)),
                                                                 int16_t *p __attribute__((unused))) {
    __asm__ volatile(" push {r4-r6, lr}\n"
                     " vpush {d8-d15}\n"
                     " ldr r4, [sp, #80]\n"
                     " mov r5, r0\n" FIND_NUMERATORS " vpop {d8-d15}\n"
                     " pop {r4-r6, pc}\n");
}

/* Both at once, for queries of one or two vectors that see whole sixteens of keys: their numerators lie one
 * behind the other. */
typedef struct scoring {
    const void *key;
    int32_t *score;
    const uint16_t *table;
    int32_t multiplier;
    int32_t *end; /* of the scores */
    int32_t sixteens;
    int32_t query_step; /* bytes */
} scoring;

typedef char scoring_is_as_the_loop_reads_it[offsetof(scoring, end) == 16 && offsetof(scoring, query_step) == 24 ? 1 : -1];

#define LOAD_SECOND_1
#define LOAD_SECOND_2 " vldrb.u8 q5, [r7, #16]\n"
#define DEFINE_WHOLE(NAME, T, VECTORS)                                                                                           \
    __attribute__((naked, noinline)) static void NAME(                                                                           \
        const scoring *s __attribute__((unused)), const void *query __attribute__((unused)), int16_t *p __attribute__((unused)), \
        uint32_t *totals __attribute__((unused)), int32_t queries __attribute__((unused))) {                                     \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d15}\n"                                                                                     \
                         " ldr r9, [sp, #100]\n"                                                                                 \
                         " mov r11, r0\n"                                                                                        \
                         " mov r7, r1\n"                                                                                         \
                         " push {r2, r3}\n"                                                                                      \
                         "0: vldrb.u8 q4, [r7]\n" LOAD_SECOND_##VECTORS                                                          \
                         " ldrd r1, r3, [r11]\n"                                                                                 \
                         " ldr r5, [r11, #16]\n"                                                                                 \
                         "5:\n" SCORES_OF_##VECTORS(T) " cmp r3, r5\n"                                                           \
                                                       " bne 5b\n"                                                               \
                                                       " ldrd r1, r2, [r11, #8]\n"                                               \
                                                       " ldr r0, [r11, #4]\n"                                                    \
                                                       " ldr r3, [r11, #20]\n"                                                   \
                                                       " ldr r4, [sp]\n"                                                         \
                                                       " mov r5, r0\n" FIND_NUMERATORS " ldr r3, [sp, #4]\n"                     \
                                                       " str r0, [r3], #4\n"                                                     \
                                                       " ldr r0, [r11, #24]\n"                                                   \
                                                       " add r7, r0\n"                                                           \
                                                       " strd r4, r3, [sp]\n"                                                    \
                                                       " subs r9, #1\n"                                                          \
                                                       " bne 0b\n"                                                               \
                                                       " pop {r2, r3}\n"                                                         \
                                                       " vpop {d8-d15}\n"                                                        \
                                                       " pop {r4-r11, pc}\n");                                                   \
    }

/* What the loop below works on, for queries that see as many keys. `p`: numerators, zeros up to a multiple of 32, those of the
 * next query p_step bytes on. `v`: of each 8 columns, of each 32 keys: the 32 values of the first column, then those of the
 * others; `gap`: bytes of v behind the pieces that are summed. `factors`: of each query, multiplier and 32 - shift, below 0. In
 * C:
 *     for each query, for each column: *y++ = clamp(rounded (high word of sum * multiplier) >> shift) */
typedef struct means {
    int32_t zeros[8];
    const int16_t *p;
    int32_t pieces;
    const int32_t *factors;
    int32_t gap;
    const int16_t *v;
    int32_t columns;
    int32_t p_step, y_gap; /* bytes */
    int32_t queries;
} means;

typedef char means_are_as_the_loop_reads_them[offsetof(means, p) == 32 && offsetof(means, queries) == 64 ? 1 : -1];

#define DOT_COLUMN                                                                                                               \
    " vldmia r1!, {d0-d7}\n vmladava.s16 \\sum, q0, q4\n vmladava.s16 \\sum, q1, q5\n vmladava.s16 \\sum, q2, q6\n"              \
    " vmladava.s16 \\sum, q3, q7\n"
#define STORE_MEANS_s8  " vqmovnb.s16 q0, q0\n vctp.16 r11\n vpst\n vstrbt.16 q0, [r7], #8\n"
#define STORE_MEANS_s16 " vctp.16 r11\n vpst\n vstrht.16 q0, [r7], #16\n"

#define DEFINE_MEANS(OUT)                                                                                                        \
    __attribute__((naked, noinline)) static void means_##OUT(means *m __attribute__((unused)),                                   \
                                                             PF_TYPE_##OUT *y __attribute__((unused))) {                         \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " vpush {d8-d15}\n"                                                                                     \
                         " mov r5, r0\n"                                                                                         \
                         " mov r7, r1\n"                                                                                         \
                         " 0: ldrd r1, r11, [r5, #48]\n"                                                                         \
                         " 1: ldrd r3, r9, [r5, #32]\n"                                                                          \
                         " ldm r5, {r0, r2, r4, r6, r8, r10, r12, lr}\n"                                                         \
                         "2: vldmia r3!, {d8-d15}\n .irp sum, r0, r2, r4, r6, r8, r10, r12, lr\n" DOT_COLUMN " .endr\n"          \
                         " subs r9, #1\n"                                                                                        \
                         " bne 2b\n"                                                                                             \
                         " vmov q0[2], q0[0], r0, r8\n"                                                                          \
                         " vmov q0[3], q0[1], r4, r12\n"                                                                         \
                         " vmov q1[2], q1[0], r2, r10\n"                                                                         \
                         " vmov q1[3], q1[1], r6, lr\n"                                                                          \
                         " ldrd r4, r6, [r5, #40]\n"                                                                             \
                         " ldrd r0, r2, [r4]\n"                                                                                  \
                         " vdup.32 q2, r0\n"                                                                                     \
                         " vmulh.s32 q0, q0, q2\n"                                                                               \
                         " vmulh.s32 q1, q1, q2\n"                                                                               \
                         " vrshl.s32 q0, r2\n"                                                                                   \
                         " vrshl.s32 q1, r2\n"                                                                                   \
                         " vqmovnb.s32 q0, q0\n"                                                                                 \
                         " vqmovnt.s32 q0, q1\n" STORE_MEANS_##OUT " add r1, r6\n"                                               \
                                                                   " subs r11, #8\n"                                             \
                                                                   " bgt 1b\n"                                                   \
                                                                   " ldrd r0, r2, [r5, #56]\n"                                   \
                                                                   " ldr r3, [r5, #32]\n"                                        \
                                                                   " add r7, r2\n"                                               \
                                                                   " add r3, r0\n"                                               \
                                                                   " add r4, #8\n"                                               \
                                                                   " str r3, [r5, #32]\n"                                        \
                                                                   " str r4, [r5, #40]\n"                                        \
                                                                   " ldr r3, [r5, #64]\n"                                        \
                                                                   " subs r3, #1\n"                                              \
                                                                   " str r3, [r5, #64]\n"                                        \
                                                                   " bne 0b\n"                                                   \
                                                                   " vpop {d8-d15}\n"                                            \
                                                                   " pop {r4-r11, pc}\n");                                       \
    }

#endif
