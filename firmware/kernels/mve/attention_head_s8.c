/* One head of an attention on int8 for MVE. */
#include "attention_loops.h"

DEFINE_SCORES_OF_ONE(scores_of_one, "s8")
DEFINE_SCORES(scores_of_more, "s8")
DEFINE_WHOLE(whole_of_one, "s8", 1)
DEFINE_WHOLE(whole_of_two, "s8", 2)

#include "attention_head.h"

DEFINE_ARRANGEMENTS(s8)
DEFINE_HEAD(s8, s8)
DEFINE_HEAD(s8, s16)
