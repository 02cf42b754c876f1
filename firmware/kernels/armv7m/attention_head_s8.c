/* One head of an attention on int8 for ARMv7-M. */
#include "dot_six.h"
#include "packed_dot.h"

#include "picoformer/packed_attention.h"

PF_DEFINE_SIX_QUERIES(s8, uint8_t)
PF_DEFINE_PACKED_HEAD(s8, s8)
PF_DEFINE_PACKED_HEAD(s8, s16)
