/* Linear layers on int16 activations whose sums fit 32 bits, for SMLAD. The weight lies as for int8 activations. */
#include "linear_strip.h"
#include "packed_rows.h"
#include "paired_rows.h"

DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, widen_packed, 0, 8, s16, s8)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, widen_packed, 0, 8, s16, s16)
