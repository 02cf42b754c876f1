/* Linear layers on int8 activations for SMLAD. */
#include "linear_strip.h"
#include "packed_rows.h"
#include "paired_rows.h"

DEFINE_LINEAR(pf_linear_s8_s8, pf_linear, widen_packed, 0, 8, s8, s8, 0, 0)
DEFINE_LINEAR(pf_linear_s8_s16, pf_linear, widen_packed, 0, 8, s8, s16, 0, 0)
