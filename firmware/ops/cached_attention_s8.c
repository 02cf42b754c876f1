/* Cached attention on int8 keys. */
#include "cached_attention_rows.h"

PF_DEFINE_CACHED_ATTENTION(s8, s8, s8)
PF_DEFINE_CACHED_ATTENTION(s8, s8, s16)
PF_DEFINE_CACHED_ATTENTION(s8, s16, s8)
PF_DEFINE_CACHED_ATTENTION(s8, s16, s16)
