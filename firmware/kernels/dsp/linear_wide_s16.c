/* Linear layers on int16 activations with 64-bit sums, for SMLALD. */
#include "linear_weights_s8.h"
#include "linear_wide_strip.h"

DEFINE_LINEAR_WIDE(pf_linear_wide_s16_s8, pf_linear, widen_rows_s8, s8)
DEFINE_LINEAR_WIDE(pf_linear_wide_s16_s16, pf_linear, widen_rows_s8, s16)
