/* One row of a cached attention on int8 keys. */
#include "cached_attention_group.h"

PF_DEFINE_CACHED_NUMERATORS(s8)
PF_DEFINE_CACHED_GROUP(s8, s8, s8)
PF_DEFINE_CACHED_GROUP(s8, s8, s16)
PF_DEFINE_CACHED_GROUP(s8, s16, s8)
PF_DEFINE_CACHED_GROUP(s8, s16, s16)
