/* One head of an attention on int8 for MVE. */
#include "attention_head.h"

DEFINE_SCORES_OF_ONE(scores_of_one, "s8")
DEFINE_SCORES(scores_of_more, "s8")
DEFINE_ARRANGEMENTS(s8)
DEFINE_NUMERATORS(s8)
DEFINE_HEAD(s8, s8)
DEFINE_HEAD(s8, s16)
