/* Linear layers with int4 weights on int16 activations whose sums fit 32 bits, for SMLAD, one by one where they are few. */
#include "linear_strip.h"
#include "linear_vector.h"
#include "packed_rows_s4.h"
#include "paired_rows.h"

DEFINE_LINEAR(pf_linear_s4_s16_s8, pf_linear_s4, widen_packed_s4, p->block_multiplier, 4, s16, s8, 3, pf_dsp_vector_s4)
DEFINE_LINEAR(pf_linear_s4_s16_s16, pf_linear_s4, widen_packed_s4, p->block_multiplier, 4, s16, s16, 3, pf_dsp_vector_s4)
