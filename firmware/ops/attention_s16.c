/* Attention on int16. */
#include "attention_heads.h"

PF_DEFINE_ATTENTION(s16, s8)
PF_DEFINE_ATTENTION(s16, s16)
