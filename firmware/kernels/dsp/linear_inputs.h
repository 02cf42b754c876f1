/* Rows of a linear layer's input in the quad layout of products.h, from int8 and from int16. */
#ifndef PF_DSP_LINEAR_INPUTS_H
#define PF_DSP_LINEAR_INPUTS_H

#include "products.h"

/* `count` rows of k elements, two by two; the partner of an odd last one is itself. */
static inline void arrange_s8(const int8_t *x, int32_t k, uint32_t *out, int32_t count) {
    widen_rows(x, k, out, count, k);
}

/* Two int16 of any alignment as a word. */
static inline uint32_t load_pair(const int16_t *x) {
    uint32_t word;
    __builtin_memcpy(&word, x, 4);
    return word;
}

static inline void arrange_four(uint32_t first, uint32_t second, uint32_t *out) {
    out[0] = (first & 0xFFFFu) | second << 16;
    out[1] = first >> 16 | (second & 0xFFFF0000u);
}

__attribute__((noinline, unused)) static void arrange_s16(const int16_t *x, int32_t k, uint32_t *out, int32_t count) {
    for (int32_t r = 0; r < count; r += 2, x += 2 * k, out += quad_words(k)) {
        for (int32_t half = 0; half < 2; half++) {
            const int16_t *row = half != 0 && r + 1 < count ? x + k : x;
            uint32_t *to = out + 2 * half;
            int32_t i = 0;
            for (; i + 4 <= k; i += 4, to += 4) {
                arrange_four(load_pair(row + i), load_pair(row + i + 2), to);
            }
            if (i < k) {
                const uint32_t first = i + 1 < k ? load_pair(row + i) : (uint16_t)row[i];
                arrange_four(first, i + 2 < k ? (uint16_t)row[i + 2] : 0u, to);
            }
        }
    }
}

#endif
