/* Linear layers with int4 weights on int8 activations for VMLADAVA.S8: a group of weights becomes int8 for all rows. */
#include "linear_blocks.h"
#include "linear_layer.h"

DEFINE_MULTIPLY_BLOCKS(s8)

/* Bytes hold an element of one vector in their low half, of the next in their high half. */
static inline void unpack(const int8_t *from, int8_t *to, int8_t m) {
    const int8x16_t pair = vld1q_s8(from);
    vst1q_s8(to, vmulq_n_s8(vshrq_n_s8(vshlq_n_s8(pair, 4), 4), m));
    vst1q_s8(to + 16, vmulq_n_s8(vshrq_n_s8(pair, 4), m));
}

static const int8_t *weights(const pf_linear_s4 *p, int32_t i, int32_t vectors, void *scratch) {
    const int8_t *from = (const int8_t *)p->weight + i * vectors * 8;
    int8_t *to = scratch;
    if (p->block_multiplier == NULL || vectors % 4 != 0) {
        for (int32_t left = GROUP * vectors; left > 0; left -= 2, from += 16, to += 32) {
            unpack(from, to, 1);
        }
        multiply_blocks_s8(p, i, vectors, scratch);
        return scratch;
    }
    for (int32_t block = 0; block < vectors / 2; block += 2) { /* whole pieces: two blocks of each row */
        for (int32_t row = i; row < i + GROUP; row++, from += 32, to += 64) {
            const uint8_t *m = p->block_multiplier + (row < p->n ? row : i) * ((p->k + 31) / 32) + block;
            unpack(from, to, (int8_t)m[0]);
            unpack(from + 16, to + 32, (int8_t)m[1]);
        }
    }
    return scratch;
}

DEFINE_SUM(s8)
DEFINE_GROUPS(s8, "s8", s8, WHOLE)
DEFINE_GROUPS(s16, "s8", s16, WHOLE)
DEFINE_LINEAR(, pf_linear_s4_s8_s8, pf_linear_s4, s8, s8, GROUP, weights)
DEFINE_LINEAR(, pf_linear_s4_s8_s16, pf_linear_s4, s8, s16, GROUP, weights)
