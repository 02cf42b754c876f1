/* One head of an attention on int8 for SMLAD: bytes are widened as SXTB16 leaves them. */
#include "attention_pairs.h"

/* Four elements as pairs of int16: elements 0 and 2, 1 and 3; zeros from `count` on. */
typedef struct pf_quad {
    uint32_t first, second;
} pf_quad;

static inline pf_quad pf_load_quad(const int8_t *x, int32_t count, int32_t drop) {
    uint32_t word = 0;
    pf_quad quad;
    (void)drop;
    if (count >= 4) {
        __builtin_memcpy(&word, x, 4);
    } else {
        for (int32_t i = 0; i < count; i++) {
            word |= (uint32_t)(uint8_t)x[i] << (8 * i);
        }
    }
    __asm__("sxtb16 %0, %1" : "=r"(quad.first) : "r"(word));
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(quad.second) : "r"(word));
    return quad;
}

PF_DEFINE_ARRANGE_ROWS(s8)
PF_DEFINE_ARRANGE_VALUES(s8, 0)
PF_DEFINE_HEAD(s8, s8)
PF_DEFINE_HEAD(s8, s16)
