/* Two rows of activations for linear_strip.c: int8 in the quad layout of products.h; int16 in pairs as they lie in memory, so
 * that a quad is (a0,a1) (a2,a3) (b0,b1) (b2,b3). */
#ifndef PF_DSP_PAIRED_ROWS_H
#define PF_DSP_PAIRED_ROWS_H

#include <stdint.h>

#include "arranged_rows.h"
#include "products.h"

/* Rows that begin at words. In C, for int8, with the four bytes of a word as b0 ... b3:
 *     for (; quads > 0; quads--, a += 4) { a[0..1] = (b0,b2), (b1,b3) of *first++; a[2..3] = those of *second++; }
 * and for int16 words as they are, two of each row in turn. TWO: eight words, four of each row, into r2 ... r9; the loop takes
 * two quads a turn. */
#define DEFINE_PAIR_WORDS(NAME, LOAD_TWO, TWO, LOAD_ONE, ONE)                                                                    \
    __attribute__((naked, noinline, unused)) static void NAME(                                                                   \
        const void *first __attribute__((unused)), const void *second __attribute__((unused)),                                   \
        uint32_t *a __attribute__((unused)), int32_t quads __attribute__((unused))) {                                            \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " mov lr, r2\n"                                                                                         \
                         " subs.w r12, r3, #2\n"                                                                                 \
                         " blt 3f\n"                                                                                             \
                         "2: " LOAD_TWO TWO " stmia.w lr!, {r2-r9}\n"                                                            \
                         " subs.w r12, r12, #2\n"                                                                                \
                         " bge 2b\n"                                                                                             \
                         "3: adds.w r12, r12, #1\n"                                                                              \
                         " bne 4f\n" LOAD_ONE ONE " stmia.w lr, {r2-r5}\n"                                                       \
                         "4: pop {r4-r11, pc}\n");                                                                               \
    }

#define ONE_S8  " sxtb16 r2, r8\n sxtb16 r3, r8, ror #8\n sxtb16 r4, r9\n sxtb16 r5, r9, ror #8\n"
#define MORE_S8 " sxtb16 r6, r10\n sxtb16 r7, r10, ror #8\n sxtb16 r8, r11\n sxtb16 r9, r11, ror #8\n"
DEFINE_PAIR_WORDS(pair_words_s8, " ldmia.w r0!, {r8, r10}\n ldmia.w r1!, {r9, r11}\n", ONE_S8 MORE_S8,
                  " ldr.w r8, [r0]\n ldr.w r9, [r1]\n", ONE_S8)
DEFINE_PAIR_WORDS(pair_words_s16, " ldmia.w r0!, {r2, r3, r6, r7}\n ldmia.w r1!, {r4, r5, r8, r9}\n", "",
                  " ldm.w r0, {r2, r3}\n ldm.w r1, {r4, r5}\n", "")

/* Up to four elements of any alignment as two words, zeros behind them. */
static inline void pair_few_s8(const int8_t *x, int32_t count, uint32_t *a) {
    const uint32_t word = load_bytes(x, count);
    a[0] = even_bytes(word);
    a[1] = odd_bytes(word);
}
static inline void pair_few_s16(const int16_t *x, int32_t count, uint32_t *a) {
    load_four(x, count, a);
}

#define DEFINE_PAIR_ANY(TYPE)                                                                                                    \
    __attribute__((unused)) static void pair_any_##TYPE(const void *first, const void *second, uint32_t *a, int32_t count) {     \
        const PF_TYPE_##TYPE *x = first, *z = second;                                                                            \
        for (int32_t i = 0; i < count; i += 4) {                                                                                 \
            pair_few_##TYPE(x + i, count - i, a + i);                                                                            \
            pair_few_##TYPE(z + i, count - i, a + i + 2);                                                                        \
        }                                                                                                                        \
    }

DEFINE_PAIR_ANY(s8)
DEFINE_PAIR_ANY(s16)

#endif
