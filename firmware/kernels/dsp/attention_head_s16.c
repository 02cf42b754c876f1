/* One head of an attention on int16 for SMLAD: elements lose low bits as they are arranged, so that all sums fit 32 bits. */
#include "attention_pairs.h"

/* Four elements as pairs of int16, in order; zeros from `count` on. */
typedef struct pf_quad {
    uint32_t first, second;
} pf_quad;

/* pf_narrow of both halves, drop 2 or more: x * 2^(16-drop) + 2^15, of which the high half is kept. */
static inline uint32_t narrow_two(uint32_t word, uint32_t factor) {
    uint32_t low, high;
    __asm__("smlabb %0, %1, %2, %3" : "=r"(low) : "r"(word), "r"(factor), "r"(0x8000));
    __asm__("smlatb %0, %1, %2, %3" : "=r"(high) : "r"(word), "r"(factor), "r"(0x8000));
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(word) : "r"(high), "r"(low));
    return word;
}
static inline uint32_t halve_two(uint32_t word) {
    __asm__("shadd16 %0, %1, %2" : "=r"(word) : "r"(word), "r"(PF_ALL_EQUAL));
    return word;
}

static inline pf_quad pf_load_quad(const int16_t *x, int32_t count, int32_t drop) {
    pf_quad quad;
    if (count >= 4) {
        __builtin_memcpy(&quad, x, sizeof quad);
    } else {
        quad.first = (uint16_t)x[0] | (uint32_t)(count > 1 ? x[1] : 0) << 16;
        quad.second = count > 2 ? (uint16_t)x[2] : 0u;
    }
    if (drop > 1) {
        const uint32_t factor = 0x10000u >> drop;
        quad.first = narrow_two(quad.first, factor);
        quad.second = narrow_two(quad.second, factor);
    } else if (drop == 1) {
        quad.first = halve_two(quad.first);
        quad.second = halve_two(quad.second);
    }
    return quad;
}

PF_DEFINE_ARRANGE_ROWS(s16)
PF_DEFINE_ARRANGE_VALUES(s16, 1)
PF_DEFINE_HEAD(s16, s8)
PF_DEFINE_HEAD(s16, s16)
