/* Linear layers with int4 weights on int8 activations for ARMv6-M. */
#include "dot_six.h"
#include "finish_six.h"
#include "packed_dot.h"

#include "picoformer/packed_linear.h"

PF_DEFINE_PRODUCTS(s8)
PF_DEFINE_PACKED_LINEAR(pf_linear_s4_s8_s8, pf_linear_s4, pf_widened_weights, s8, s8)
PF_DEFINE_PACKED_LINEAR(pf_linear_s4_s8_s16, pf_linear_s4, pf_widened_weights, s8, s16)
