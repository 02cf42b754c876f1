/* Linear layers on int16 activations whose sums fit 32 bits, for SMLAD. */
#include "joined_rows.h"
#include "linear_strip.h"
#include "paired_rows.h"

DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, widen_joined, 0, 8, s16, s8, 0, 0)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, widen_joined, 0, 8, s16, s16, 0, 0)
