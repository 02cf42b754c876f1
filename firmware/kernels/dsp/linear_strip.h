/* A linear layer for SMLAD, whatever its weights are packed as: two outputs of two rows at a time, rescaled by one rounded
 * high word.
 *
 * A block of rows of x is widened into the scratch once; then each pair of weight rows is widened in front of it and serves
 * the whole block. */
#ifndef PF_DSP_LINEAR_STRIP_H
#define PF_DSP_LINEAR_STRIP_H

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#include "products.h"

/* A pair of weight rows with a block of inputs. row1: bytes from an output of the first row to that of the second, 0 where
 * there is no second: what it gives is then written over. y_step likewise, from one row of x to the next. In C:
 *     for each pair of inputs: as in pf_products, starting at bias; each sum: clamp(zero_point + rescale(sum << left)) */
typedef struct strip {
    const uint32_t *w, *w_end, *a, *a_end;
    uint32_t skip;
    void *y;
    int32_t y_step, row1;
    int32_t left, zero_point;
    int32_t bias[2], multiplier[2];
} strip;

#define DEFINE_STRIP(OUT, BITS, STORE)                                                                                           \
    __attribute__((naked, noinline)) static void strip_##OUT(const strip *work __attribute__((unused))) {                        \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " ldmia r0!, {r1-r8}\n"                                                                                 \
                         " adr.w r9, 2f\n"                                                                                       \
                         " add r5, r5, r9\n"                                                                                     \
                         " orr r5, r5, #1\n"                                                                                     \
                         " ldmia.w r0, {r0, r9, r10, r11, r12, lr}\n"                                                            \
                         " push.w {r0, r9, r10, r11, r12, lr}\n"                                                                 \
                         " push.w {r1-r8}\n" /* sp: w, w_end, a, a_end, entry, y, y_step, row1, left, zero_point, bias, ... */   \
                         " mov r1, r3\n"                                                                                         \
                         "1: ldrd r10, r11, [sp, #40]\n"                                                                         \
                         " mov r12, r10\n"                                                                                       \
                         " mov lr, r11\n"                                                                                        \
                         " ldr r0, [sp]\n"                                                                                       \
                         " ldr.w pc, [sp, #16]\n" PF_QUAD_LOOP " ldrd r2, r3, [sp, #32]\n"                                       \
                         " ldrd r4, r5, [sp, #48]\n"                                                                             \
                         " ldrd r6, r7, [sp, #20]\n"                                                                             \
                         " ldr.w r9, [sp, #28]\n"                                                                                \
                         " lsl r10, r10, r2\n"                                                                                   \
                         " lsl r11, r11, r2\n"                                                                                   \
                         " lsl r12, r12, r2\n"                                                                                   \
                         " lsl lr, lr, r2\n"                                                                                     \
                         " smmlar r10, r10, r4, r3\n"                                                                            \
                         " smmlar r11, r11, r5, r3\n"                                                                            \
                         " smmlar r12, r12, r4, r3\n"                                                                            \
                         " smmlar lr, lr, r5, r3\n"                                                                              \
                         " ssat r10, #" BITS ", r10\n"                                                                           \
                         " ssat r11, #" BITS ", r11\n"                                                                           \
                         " ssat r12, #" BITS ", r12\n"                                                                           \
                         " ssat lr, #" BITS ", lr\n"                                                                             \
                         " add r8, r6, r7\n"                                                                                     \
                         " " STORE " lr, [r8, r9]\n"                                                                             \
                         " " STORE " r12, [r8]\n"                                                                                \
                         " " STORE " r11, [r6, r9]\n"                                                                            \
                         " " STORE " r10, [r6]\n"                                                                                \
                         " add r6, r8, r7\n"                                                                                     \
                         " str r6, [sp, #20]\n"                                                                                  \
                         " ldr r2, [sp, #12]\n"                                                                                  \
                         " cmp r1, r2\n"                                                                                         \
                         " bne.w 1b\n"                                                                                           \
                         " add sp, #56\n"                                                                                        \
                         " pop {r4-r11, pc}\n");                                                                                 \
    }

DEFINE_STRIP(s8, "8", "strb.w")
DEFINE_STRIP(s16, "16", "strh.w")

/* The whole layer. WIDEN(p, i, second, w, words): rows i and i + second of the weight into quad layout. ARRANGE(x, stride, a,
 * count, size): `count` rows of x likewise.
 * Where sums may pass 32 bits when shifted left: the same, each sum rescaled with a 64-bit product. */
#define DEFINE_LINEAR(SYMBOL, PARAMETERS, WIDEN, IN, ARRANGE, OUT)                                                               \
    static void exact_##OUT(const strip *s, int32_t shift, PF_TYPE_##OUT *y, int32_t n, int32_t count, int32_t words) {          \
        const int32_t columns = s->row1 != 0 ? 2 : 1;                                                                            \
        int32_t sums[4];                                                                                                         \
        pf_products pair = {s->a, s->w, s->w_end, s->a + words, 0u, s->skip, sums};                                              \
        for (int32_t r = 0; r < count; r++) {                                                                                    \
            const int32_t second = (r & 1) * 2;                                                                                  \
            if (second == 0) {                                                                                                   \
                pf_dsp_products(&pair);                                                                                          \
                pair.a = pair.a_end;                                                                                             \
                pair.a_end += words;                                                                                             \
            }                                                                                                                    \
            for (int32_t c = 0; c < columns; c++) {                                                                              \
                const int32_t value = s->zero_point + pf_rescale(sums[second + c] + s->bias[c], s->multiplier[c], shift);        \
                y[r * n + c] = PF_SATURATE(OUT, value);                                                                          \
            }                                                                                                                    \
        }                                                                                                                        \
    }                                                                                                                            \
                                                                                                                                 \
    void SYMBOL(const PARAMETERS *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                     \
        const int32_t n = p->n, k = p->k, words = quad_words(k), size = (int32_t)sizeof *y;                                      \
        uint32_t *const w = scratch, *const a = w + words;                                                                       \
        strip s = {.w = w, .w_end = a, .skip = quad_skip(words), .left = 32 - p->shift, .zero_point = p->zero_point};            \
        for (int32_t count; rows > 0; rows -= count, x += count * k, y += count * n) {                                           \
            count = rows < p->block ? rows : p->block;                                                                           \
            ARRANGE(x, k, a, count, k);                                                                                          \
            for (int32_t i = 0; i < n; i += 2) {                                                                                 \
                const int32_t second = i + 1 < n ? 1 : 0;                                                                        \
                WIDEN(p, i, second, w, words);                                                                                   \
                s.row1 = second * size;                                                                                          \
                s.bias[0] = p->bias[i];                                                                                          \
                s.bias[1] = p->bias[i + second];                                                                                 \
                s.multiplier[0] = p->multiplier[i];                                                                              \
                s.multiplier[1] = p->multiplier[i + second];                                                                     \
                s.a = a;                                                                                                         \
                if (s.left > p->headroom) {                                                                                      \
                    exact_##OUT(&s, p->shift, y + i, n, count, words);                                                           \
                    continue;                                                                                                    \
                }                                                                                                                \
                s.y = y + i;                                                                                                     \
                if (count > 1) {                                                                                                 \
                    s.a_end = a + count / 2 * words;                                                                             \
                    s.y_step = n * size;                                                                                         \
                    strip_##OUT(&s);                                                                                             \
                }                                                                                                                \
                if (count % 2 != 0) {                                                                                            \
                    s.a = a + count / 2 * words;                                                                                 \
                    s.a_end = s.a + words;                                                                                       \
                    s.y = y + (count - 1) * n + i;                                                                               \
                    s.y_step = 0;                                                                                                \
                    strip_##OUT(&s);                                                                                             \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
