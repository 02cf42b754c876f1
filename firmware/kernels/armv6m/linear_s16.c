/* Linear layers on int16 activations for ARMv6-M. */
#include "dot_six.h"
#include "finish_six.h"

#include "picoformer/packed_linear.h"

PF_DEFINE_PRODUCTS(s16)
PF_DEFINE_PACKED_LINEAR(pf_linear_s16_s8, pf_linear, pf_stored_weights, s16, s8)
PF_DEFINE_PACKED_LINEAR(pf_linear_s16_s16, pf_linear, pf_stored_weights, s16, s16)
