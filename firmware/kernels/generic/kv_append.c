/* New keys or values into their cache. */
#include "picoformer/kv_append.h"

PF_DEFINE_KV_APPEND(s8, s8, pf_rescale)
PF_DEFINE_KV_APPEND(s8, s16, pf_rescale)
PF_DEFINE_KV_APPEND(s16, s8, pf_rescale)
PF_DEFINE_KV_APPEND(s16, s16, pf_rescale)
