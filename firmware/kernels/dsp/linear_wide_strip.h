/* A linear layer on int16 with 64-bit sums, whatever its weights are packed as: one output of one row at a time. */
#ifndef PF_DSP_LINEAR_WIDE_STRIP_H
#define PF_DSP_LINEAR_WIDE_STRIP_H

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

#include "linear_inputs.h"

/* Both products of two pairs of int16 added to a sum of 64 bits. */
static inline int64_t add_products(int64_t sum, uint32_t a, uint32_t b) {
    uint32_t low = (uint32_t)sum, high = (uint32_t)(sum >> 32);
    __asm__("smlald %0, %1, %2, %3" : "+r"(low), "+r"(high) : "r"(a), "r"(b));
    return (int64_t)((uint64_t)high << 32 | low);
}

/* One vector of a pair in quad layout with one of another. */
static inline int64_t wide_product(const uint32_t *w, const uint32_t *a, int32_t words) {
    int64_t sum = 0;
    for (int32_t i = 0; i < words; i += 4) {
        sum = add_products(add_products(sum, w[i], a[i]), w[i + 1], a[i + 1]);
    }
    return sum;
}

/* The whole layer. WIDEN(p, i, second, w, words): rows i and i + second of the weight into quad layout. */
#define DEFINE_LINEAR_WIDE(SYMBOL, PARAMETERS, WIDEN, OUT)                                                                       \
    void SYMBOL(const PARAMETERS *p, const int16_t *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {                          \
        const int32_t n = p->n, k = p->k, words = quad_words(k);                                                                 \
        uint32_t *const w = scratch, *const a = w + words;                                                                       \
        for (int32_t count; rows > 0; rows -= count, x += count * k, y += count * n) {                                           \
            count = rows < p->block ? rows : p->block;                                                                           \
            arrange_s16(x, k, a, count);                                                                                         \
            for (int32_t i = 0; i < n; i += 2) {                                                                                 \
                const int32_t second = i + 1 < n ? 1 : 0;                                                                        \
                WIDEN(p, i, second, w, words);                                                                                   \
                for (int32_t r = 0; r < count; r++) {                                                                            \
                    const uint32_t *row = a + r / 2 * words + r % 2 * 2;                                                         \
                    for (int32_t c = 0; c <= second; c++) {                                                                      \
                        const int64_t sum = wide_product(w + 2 * c, row, words) + p->bias[i + c];                                \
                        const int32_t value = p->zero_point + pf_rescale_wide(sum, p->multiplier[i + c], p->shift);              \
                        y[r * n + i + c] = PF_SATURATE(OUT, value);                                                              \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
