/* Linear layers on int8 activations for cores without SIMD. */
#include "dot_six.h"
#include "packed_dot.h"

#include "picoformer/finish_six.h"
#include "picoformer/packed_linear.h"

PF_DEFINE_PRODUCTS(s8)
PF_DEFINE_PACKED_LINEAR(pf_linear_s8_s8, pf_linear, pf_stored_weights, s8, s8)
PF_DEFINE_PACKED_LINEAR(pf_linear_s8_s16, pf_linear, pf_stored_weights, s8, s16)
