/* Linear layers with int4 weights on int8 activations for SMLAD. */
#include "linear_strip.h"
#include "packed_rows_s4.h"
#include "paired_rows.h"

DEFINE_LINEAR(pf_linear_s4_s8_s8, pf_linear_s4, widen_packed_s4, p->block_multiplier, 4, s8, s8, 0, 0)
DEFINE_LINEAR(pf_linear_s4_s8_s16, pf_linear_s4, widen_packed_s4, p->block_multiplier, 4, s8, s16, 0, 0)
