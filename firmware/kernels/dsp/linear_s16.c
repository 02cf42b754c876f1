/* Linear layers on int16 activations whose sums fit 32 bits, for SMLAD. */
#include "linear_strip.h"
#include "linear_weights_s8.h"

DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, widen_rows_s8, s16, s8)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, widen_rows_s8, s16, s16)
