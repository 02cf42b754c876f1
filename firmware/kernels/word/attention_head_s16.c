/* One head of an attention on int16 for cores without SIMD. */
#include "dot_six.h"

#include "picoformer/packed_attention.h"

PF_DEFINE_SIX_QUERIES(s16, uint16_t)
PF_DEFINE_PACKED_HEAD(s16, s8)
PF_DEFINE_PACKED_HEAD(s16, s16)
