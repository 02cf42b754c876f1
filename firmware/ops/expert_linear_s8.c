/* Linear layers of experts: int8 weights on int8 activations. */
#include "expert_linear_rows.h"

PF_DEFINE_EXPERT_LINEAR(, pf_linear, s8, s8, )
PF_DEFINE_EXPERT_LINEAR(, pf_linear, s8, s16, )
