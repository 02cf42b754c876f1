/* Linear layers of experts: int4 weights on int8 activations. */
#include "expert_linear_rows.h"

PF_DEFINE_EXPERT_LINEAR(s4_, pf_linear_s4, s8, s8, PF_EXPERT_BLOCKS)
PF_DEFINE_EXPERT_LINEAR(s4_, pf_linear_s4, s8, s16, PF_EXPERT_BLOCKS)
