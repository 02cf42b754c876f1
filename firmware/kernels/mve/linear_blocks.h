/* Multipliers of blocks of int4 weights, brought into a group that has been unpacked. */
#ifndef PF_MVE_LINEAR_BLOCKS_H
#define PF_MVE_LINEAR_BLOCKS_H

#include "linear_group.h"

/* Rows i to i + 7, in pieces as in linear_group.h, each vector times the multiplier of its row and block of 32. */
#define DEFINE_MULTIPLY_BLOCKS(T)                                                                                                \
    static void multiply_blocks_##T(const pf_linear_s4 *p, int32_t i, int32_t vectors, PF_TYPE_##T *w) {                         \
        const int32_t lanes = 16 / (int32_t)sizeof *w, blocks = (p->k + 31) / 32;                                                \
        if (p->block_multiplier == NULL) {                                                                                       \
            return;                                                                                                              \
        }                                                                                                                        \
        int32_t width = vectors % 4 != 0 ? vectors % 4 : 4;                                                                      \
        for (int32_t v = 0; v < vectors; v += width, width = 4) {                                                                \
            for (int32_t row = i; row < i + GROUP; row++) {                                                                      \
                const uint8_t *multiplier = p->block_multiplier + (row < p->n ? row : i) * blocks;                               \
                for (int32_t end = v + width, at = v; at < end; at++, w += lanes) {                                              \
                    const PF_TYPE_##T m = (PF_TYPE_##T)multiplier[at * lanes / 32];                                              \
                    vst1q_##T(w, vmulq_n_##T(vld1q_##T(w), m));                                                                  \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
