/* Linear layers with int4 weights on int16 activations with 64-bit sums. */
#include "linear_s4_rows.h"

PF_DEFINE_LINEAR_S4(pf_linear_wide_s4_s16_s8, s16, s8, int64_t, pf_rescale_wide)
PF_DEFINE_LINEAR_S4(pf_linear_wide_s4_s16_s16, s16, s16, int64_t, pf_rescale_wide)
