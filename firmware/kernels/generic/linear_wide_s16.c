/* Linear layers on int16 activations with 64-bit sums. */
#include "linear_rows.h"

PF_DEFINE_LINEAR(pf_linear_wide_s16_s8, s16, s8, int64_t, pf_rescale_wide)
PF_DEFINE_LINEAR(pf_linear_wide_s16_s16, s16, s16, int64_t, pf_rescale_wide)
