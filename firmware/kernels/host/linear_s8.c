/* Linear layers on int8 activations for the host. */
#include "linear_pairs.h"

PF_DEFINE_WIDEN(s8)
PF_DEFINE_LINEAR(s8, s8)
PF_DEFINE_LINEAR(s8, s16)
