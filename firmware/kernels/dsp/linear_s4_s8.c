/* Linear layers with int4 weights on int8 activations for SMLAD. The weight lies in pairs of rows, a byte of each in turn,
 * filled up with zeros: a word has four weights of each row, in the order that quad layout wants them. */
#include "linear_strip.h"

/* Half words u0 * m - 8 * m and u1 * m - 8 * m of u0 + 2^16 * u1, u in 0..15: two weights that had 8 added, times m. */
static inline uint32_t scale_pair(uint32_t pair, uint32_t m, uint32_t offset) {
    uint32_t result;
    __asm__("ssub16 %0, %1, %2" : "=r"(result) : "r"(pair * m), "r"(offset));
    return result;
}

/* `count` words of a pair of rows into quad layout, each weight times the multiplier of its row, m0 or m1. */
static uint32_t *widen_block(const uint8_t *packed, uint32_t m0, uint32_t m1, int32_t count, uint32_t *out) {
    const uint32_t mask = 0x000F000Fu, offset0 = 0x00080008u * m0, offset1 = 0x00080008u * m1;
    for (int32_t i = 0; i < count; i++, packed += 4, out += 4) {
        uint32_t word;
        __builtin_memcpy(&word, packed, 4);
        word ^= 0x88888888u;
        out[0] = scale_pair(word & mask, m0, offset0);
        out[1] = scale_pair(word >> 4 & mask, m0, offset0);
        out[2] = scale_pair(word >> 8 & mask, m1, offset1);
        out[3] = scale_pair(word >> 12 & mask, m1, offset1);
    }
    return out;
}

static void widen_rows_s4(const pf_linear_s4 *p, int32_t i, int32_t second, uint32_t *w, int32_t words) {
    const uint8_t *packed = p->weight + i / 2 * words;
    if (p->block_multiplier == 0) {
        widen_block(packed, 1, 1, words / 4, w);
        return;
    }
    const int32_t blocks = (p->k + 31) / 32;
    const uint8_t *m = p->block_multiplier + i * blocks;
    for (int32_t b = 0, left = words / 4; b < blocks; b++, left -= 8, packed += 32) {
        w = widen_block(packed, m[b], m[b + second * blocks], left < 8 ? left : 8, w);
    }
}

DEFINE_LINEAR(pf_linear_s4_s8_s8, pf_linear_s4, widen_rows_s4, s8)
DEFINE_LINEAR(pf_linear_s4_s8_s16, pf_linear_s4, widen_rows_s4, s16)
