/* Linear layers on int16 activations for the host. */
#include "linear_pairs.h"

PF_DEFINE_WIDEN(s16)
PF_DEFINE_LINEAR(s16, s8)
PF_DEFINE_LINEAR(s16, s16)
