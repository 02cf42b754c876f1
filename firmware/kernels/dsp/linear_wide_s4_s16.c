/* Linear layers with int4 weights on int16 activations with 64-bit sums, for SMLALD. */
#include "linear_weights_s4.h"
#include "linear_wide_strip.h"

DEFINE_LINEAR_WIDE(pf_linear_wide_s4_s16_s8, pf_linear_s4, widen_rows_s4, s8)
DEFINE_LINEAR_WIDE(pf_linear_wide_s4_s16_s16, pf_linear_s4, widen_rows_s4, s16)
