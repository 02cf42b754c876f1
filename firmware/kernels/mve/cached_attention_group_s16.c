/* One row of a cached attention on int16 keys for MVE. */
#include "cached_attention_group.h"

DEFINE_SCORES(s16)
DEFINE_SUMS(s8)
DEFINE_SUMS(s16)
DEFINE_GROUP(s16, s8, s8)
DEFINE_GROUP(s16, s8, s16)
DEFINE_GROUP(s16, s16, s8)
DEFINE_GROUP(s16, s16, s16)
