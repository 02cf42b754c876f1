/* Linear layers with int4 weights on int16 activations whose sums fit 32 bits, for VMLADAVA.S16: a group of weights becomes
 * int16 for all rows. */
#include "linear_blocks.h"
#include "linear_layer.h"

DEFINE_MULTIPLY_BLOCKS(s16)

/* Halfwords hold an element of each of four vectors, the first in the lowest bits. */
static inline void unpack(const int16_t *from, int16_t *to, int16_t m) {
    const int16x8_t four = vld1q_s16(from);
    vst1q_s16(to, vmulq_n_s16(vshrq_n_s16(vshlq_n_s16(four, 12), 12), m));
    vst1q_s16(to + 8, vmulq_n_s16(vshrq_n_s16(vshlq_n_s16(four, 8), 12), m));
    vst1q_s16(to + 16, vmulq_n_s16(vshrq_n_s16(vshlq_n_s16(four, 4), 12), m));
    vst1q_s16(to + 24, vmulq_n_s16(vshrq_n_s16(four, 12), m));
}

static const int16_t *weights(const pf_linear_s4 *p, int32_t i, int32_t vectors, void *scratch) {
    const int16_t *from = (const int16_t *)(const void *)p->weight + i * vectors * 2;
    int16_t *to = scratch;
    if (p->block_multiplier == NULL || vectors % 4 != 0) {
        for (int32_t left = GROUP * vectors; left > 0; left -= 4, from += 8, to += 32) {
            unpack(from, to, 1);
        }
        multiply_blocks_s16(p, i, vectors, scratch);
        return scratch;
    }
    for (int32_t block = 0; block < vectors / 4; block++) { /* whole pieces: a block of each row */
        for (int32_t row = i; row < i + GROUP; row++, from += 8, to += 32) {
            const uint8_t *m = p->block_multiplier + (row < p->n ? row : i) * ((p->k + 31) / 32);
            unpack(from, to, m[block]);
        }
    }
    return scratch;
}

DEFINE_SUM(s16)
DEFINE_GROUPS(s8, "s16", s8, WHOLE)
DEFINE_GROUPS(s16, "s16", s16, WHOLE)
DEFINE_LINEAR(, pf_linear_s4_s16_s8, pf_linear_s4, s16, s8, GROUP, weights)
DEFINE_LINEAR(, pf_linear_s4_s16_s16, pf_linear_s4, s16, s16, GROUP, weights)
