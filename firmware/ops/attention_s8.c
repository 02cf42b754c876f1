/* Attention on int8. */
#include "attention_heads.h"

PF_DEFINE_ATTENTION(s8, s8)
PF_DEFINE_ATTENTION(s8, s16)
