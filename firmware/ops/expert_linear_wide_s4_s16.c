/* Linear layers of experts: int4 weights on int16 activations with 64-bit sums. */
#include "expert_linear_rows.h"

PF_DEFINE_EXPERT_LINEAR(wide_s4_, pf_linear_s4, s16, s8, PF_EXPERT_BLOCKS)
PF_DEFINE_EXPERT_LINEAR(wide_s4_, pf_linear_s4, s16, s16, PF_EXPERT_BLOCKS)
