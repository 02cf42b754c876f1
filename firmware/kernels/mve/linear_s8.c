/* Linear layers on int8 activations for VMLADAVA.S8: weights are read where they lie. */
#include "linear_layer.h"

static inline const int8_t *weights(const pf_linear *p, int32_t i, int32_t vectors, void *scratch) {
    (void)scratch;
    return p->weight + i * vectors * 16;
}

DEFINE_SUM(s8)
DEFINE_GROUPS(s8, "s8", s8, WHOLE)
DEFINE_GROUPS(s16, "s8", s16, WHOLE)
DEFINE_LINEAR(, pf_linear_s8_s8, pf_linear, s8, s8, 0, weights)
DEFINE_LINEAR(, pf_linear_s8_s16, pf_linear, s8, s16, 0, weights)
