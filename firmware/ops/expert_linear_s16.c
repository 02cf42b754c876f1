/* Linear layers of experts: int8 weights on int16 activations whose sums fit 32 bits. */
#include "expert_linear_rows.h"

PF_DEFINE_EXPERT_LINEAR(, pf_linear, s16, s8, )
PF_DEFINE_EXPERT_LINEAR(, pf_linear, s16, s16, )
