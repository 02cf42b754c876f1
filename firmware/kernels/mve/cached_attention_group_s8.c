/* One row of a cached attention on int8 keys for MVE. */
#include "cached_attention_group.h"

DEFINE_SCORES(s8)
DEFINE_SUMS(s8)
DEFINE_SUMS(s16)
DEFINE_GROUP(s8, s8, s8)
DEFINE_GROUP(s8, s8, s16)
DEFINE_GROUP(s8, s16, s8)
DEFINE_GROUP(s8, s16, s16)
