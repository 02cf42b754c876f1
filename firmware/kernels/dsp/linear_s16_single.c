/* Linear layers on int16 activations whose sums fit 32 bits, for SMLAD, and for SMLALD where there are few rows. */
#include "joined_rows.h"
#include "linear_strip.h"
#include "linear_vector.h"
#include "paired_rows.h"

static void one_row(const pf_dsp_layer *layer, const void *x, void *y, void *scratch) {
    pf_dsp_vector_joined(layer, x, y, scratch, 0);
}

DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, widen_joined, 0, 8, s16, s8, 3, one_row)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, widen_joined, 0, 8, s16, s16, 3, one_row)
