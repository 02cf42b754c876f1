/* Linear layers on int16 activations whose sums fit 32 bits, for VMLADAVA.S16: a group of weights is widened for all rows. */
#include "linear_layer.h"

static const int16_t *weights(const pf_linear *p, int32_t i, int32_t vectors, void *scratch) {
    const int8_t *from = p->weight + i * vectors * 8;
    int16_t *to = scratch;
    for (int32_t left = GROUP * vectors; left > 0; left -= 2, from += 16, to += 16) {
        vst1q_s16(to, vldrbq_s16(from));
        vst1q_s16(to + 8, vldrbq_s16(from + 8));
    }
    return scratch;
}

DEFINE_SUM(s16)
DEFINE_GROUPS("s16", s8)
DEFINE_GROUPS("s16", s16)
DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, s16, s8, GROUP, weights)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, s16, s16, GROUP, weights)
