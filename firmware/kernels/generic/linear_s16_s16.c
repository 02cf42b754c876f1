/* Linear layers with int16 weights on int16 activations. */
#include "linear_rows.h"

PF_DEFINE_LINEAR_OF(pf_linear_s16_s16_s8, pf_linear_w16, int16_t, s16, s8, int64_t, pf_rescale_wide)
PF_DEFINE_LINEAR_OF(pf_linear_s16_s16_s16, pf_linear_w16, int16_t, s16, s16, int64_t, pf_rescale_wide)
