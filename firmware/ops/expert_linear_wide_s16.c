/* Linear layers of experts: int8 weights on int16 activations with 64-bit sums. */
#include "expert_linear_rows.h"

PF_DEFINE_EXPERT_LINEAR(wide_, pf_linear, s16, s8, )
PF_DEFINE_EXPERT_LINEAR(wide_, pf_linear, s16, s16, )
