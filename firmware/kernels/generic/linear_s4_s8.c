/* Linear layers with int4 weights on int8 activations. */
#include "linear_s4_rows.h"

PF_DEFINE_LINEAR_S4(pf_linear_s4_s8_s8, s8, s8, int32_t, pf_rescale)
PF_DEFINE_LINEAR_S4(pf_linear_s4_s8_s16, s8, s16, int32_t, pf_rescale)
