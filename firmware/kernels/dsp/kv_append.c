/* New keys or values into their cache, each rescaled by one rounded high word. */
#include "picoformer/kv_append.h"

/* pf_rescale of a number of 17 bits: a shift of 18 and more leaves room for it to go left by the rest. */
static inline int32_t rescaled(int32_t value, int32_t multiplier, int32_t shift) {
    return shift >= 18 ? pf_rounded_high((int32_t)((uint32_t)value << (32 - shift)), multiplier)
                       : pf_rescale(value, multiplier, shift);
}

PF_DEFINE_KV_APPEND(s8, s8, rescaled)
PF_DEFINE_KV_APPEND(s8, s16, rescaled)
PF_DEFINE_KV_APPEND(s16, s8, rescaled)
PF_DEFINE_KV_APPEND(s16, s16, rescaled)
