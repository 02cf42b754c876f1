/* Linear layers on int8 activations. */
#include "linear_rows.h"

PF_DEFINE_LINEAR(pf_linear_s8_s8, s8, s8, int32_t, pf_rescale)
PF_DEFINE_LINEAR(pf_linear_s8_s16, s8, s16, int32_t, pf_rescale)
