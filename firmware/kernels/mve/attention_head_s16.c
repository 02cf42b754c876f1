/* One head of an attention on int16 for MVE. */
#include "attention_loops.h"

DEFINE_SCORES_OF_ONE(scores_of_one, "s16")
DEFINE_SCORES(scores_of_more, "s16")
DEFINE_WHOLE(whole_of_one, "s16", 1)
DEFINE_WHOLE(whole_of_two, "s16", 2)

#include "attention_head.h"

DEFINE_ARRANGEMENTS(s16)
DEFINE_HEAD(s16, s8)
DEFINE_HEAD(s16, s16)
