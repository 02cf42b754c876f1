/* Linear layers on int8 activations for SMLAD. The weight lies in pairs of rows, four bytes of each in turn, filled up with
 * zeros. */
#include "linear_packed.h"

DEFINE_LINEAR(pf_linear_s8_s8, pf_linear, widen_rows_s8, s8, s8)
DEFINE_LINEAR(pf_linear_s8_s16, pf_linear, widen_rows_s8, s8, s16)
