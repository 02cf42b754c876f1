/* Linear layers on int16 activations for SMLAD whose sums fit 32 bits, packed as for int8 ones. */
#include "linear_packed.h"

DEFINE_LINEAR(pf_linear_s16_s8, pf_linear, widen_rows_s8, s16, s8)
DEFINE_LINEAR(pf_linear_s16_s16, pf_linear, widen_rows_s8, s16, s16)
