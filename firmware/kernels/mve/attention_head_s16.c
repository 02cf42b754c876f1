/* One head of an attention on int16 for MVE. */
#include "attention_head.h"

DEFINE_SCORES_OF_ONE(scores_of_one, "s16")
DEFINE_SCORES(scores_of_more, "s16")
DEFINE_ARRANGEMENTS(s16)
DEFINE_NUMERATORS(s16)
DEFINE_HEAD(s16, s8)
DEFINE_HEAD(s16, s16)
