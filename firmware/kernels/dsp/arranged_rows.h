/* Rows of int16 in the quad layout of products.h. */
#ifndef PF_DSP_ARRANGED_ROWS_H
#define PF_DSP_ARRANGED_ROWS_H

#include <stdint.h>

/* Up to four int16 of any alignment as two words, zeros behind them. */
static inline void load_four(const int16_t *x, int32_t count, uint32_t *out) {
    out[0] = out[1] = 0u;
    if (count >= 4) {
        __builtin_memcpy(out, x, 8);
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        out[i / 2] |= (uint32_t)(uint16_t)x[i] << (16 * (i & 1));
    }
}

/* The same, the first and third in a word, the second and fourth in the next. */
static inline void arrange_four(const int16_t *x, int32_t count, uint32_t *out) {
    uint32_t words[2];
    load_four(x, count, words);
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(out[0]) : "r"(words[0]), "r"(words[1]));
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(out[1]) : "r"(words[1]), "r"(words[0]));
}

/* `count` vectors, `stride` elements apart, two by two into quad layout; the partner of an odd last one is itself. */
__attribute__((unused)) static void arrange_rows(const int16_t *x, int32_t stride, uint32_t *out, int32_t count, int32_t size) {
    for (int32_t r = 0; r < count; r += 2, x += 2 * stride) {
        const int16_t *second = r + 1 < count ? x + stride : x;
        for (int32_t i = 0; i < size; i += 4, out += 4) {
            arrange_four(x + i, size - i, out);
            arrange_four(second + i, size - i, out + 2);
        }
    }
}

#endif
