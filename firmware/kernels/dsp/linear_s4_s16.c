/* Linear layers with int4 weights on int16 activations whose sums fit 32 bits, for SMLAD. */
#include "linear_strip.h"
#include "packed_rows_s4.h"
#include "paired_rows.h"

DEFINE_LINEAR(pf_linear_s4_s16_s8, pf_linear_s4, widen_packed_s4, p->block_multiplier, 4, s16, s8, 0, 0)
DEFINE_LINEAR(pf_linear_s4_s16_s16, pf_linear_s4, widen_packed_s4, p->block_multiplier, 4, s16, s16, 0, 0)
