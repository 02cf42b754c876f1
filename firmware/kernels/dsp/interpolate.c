/* A function of one int16 number on a line between two table entries, for SMLAD. */
#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

/* Two numbers of a word of x: between entries e0 and e1 at f of 128 lies ((128 - f) * e0 + f * e1 + 64) >> 7, and f * 65535 + 128
 * is the pair (128 - f, f). r0 table, its entry for 0; r1 x, r2 y, r3 65535, r4 128, r5 64; a word of x in PAIR. */
#define LINES(PAIR, A, B, E, F)                                                                                                  \
    " sbfx " E ", " PAIR ", #7, #9\n asr.w " F ", " PAIR ", #23\n ldr.w " E ", [r0, " E ", lsl #1]\n"                            \
    " ldr.w " F ", [r0, " F ", lsl #1]\n ubfx " A ", " PAIR ", #0, #7\n ubfx " B ", " PAIR ", #16, #7\n"                         \
    " mla " A ", " A ", r3, r4\n mla " B ", " B ", r3, r4\n smlad " A ", " A ", " E ", r5\n smlad " B ", " B ", " F ", r5\n"
#define KEEP_S16(A, B) " asrs.w " A ", " A ", #7\n pkhbt " A ", " A ", " B ", lsl #9\n"
#define KEEP_S8(A, B)  " ssat " A ", #8, " A ", asr #7\n ssat " B ", #8, " B ", asr #7\n"

/* In C: do { y[i] = clamp(pf_interpolated(table, x[i])) for i = 0 ... 3; x += 4; y += 4; } while (--fours != 0); x and y begin at
 * words. */
#define DEFINE_FOURS(OUT, LINES_AND_STORES)                                                                                      \
    __attribute__((naked, noinline)) static void fours_##OUT(                                                                    \
        const int16_t *entry_0 __attribute__((unused)), const int16_t *x __attribute__((unused)),                                \
        void *y __attribute__((unused)), int32_t fours __attribute__((unused))) {                                                \
        __asm__ volatile(" push {r4-r11, lr}\n mov lr, r3\n movw r3, #65535\n movs r4, #128\n movs r5, #64\n"                    \
                         "1: ldmia.w r1!, {r6, r7}\n" LINES_AND_STORES " subs.w lr, lr, #1\n bne 1b\n pop {r4-r11, pc}\n");      \
    }

DEFINE_FOURS(s16, LINES("r6", "r8", "r9", "r10", "r11") KEEP_S16("r8", "r9") LINES("r7", "r9", "r10", "r11", "r12")
                      KEEP_S16("r9", "r10") " stmia.w r2!, {r8, r9}\n")
DEFINE_FOURS(s8, LINES("r6", "r8", "r9", "r10", "r11")
                     KEEP_S8("r8", "r9") " strb.w r8, [r2]\n strb.w r9, [r2, #1]\n" LINES("r7", "r8", "r9", "r10", "r11")
                         KEEP_S8("r8", "r9") " strb.w r8, [r2, #2]\n strb.w r9, [r2, #3]\n adds r2, #4\n")

#define DEFINE_INTERPOLATE(OUT)                                                                                                  \
    void pf_interpolate_s16_##OUT(const int16_t *table, const int16_t *x, PF_TYPE_##OUT *y, int32_t count) {                     \
        int32_t i = 0;                                                                                                           \
        if (count >= 4 && (((uintptr_t)x | (uintptr_t)y) & 3u) == 0u) {                                                          \
            i = count & ~3;                                                                                                      \
            fours_##OUT(table + 256, x, y, count / 4);                                                                           \
        }                                                                                                                        \
        for (; i < count; i++) {                                                                                                 \
            const int32_t value = pf_interpolated(table, x[i]);                                                                  \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_INTERPOLATE(s8)
DEFINE_INTERPOLATE(s16)
