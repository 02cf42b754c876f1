/* A function of one int16 number: a table of every 128th value, a straight line between two of them. */
#include "lookup.h"
#include "picoformer/ops.h"

DEFINE_INTERPOLATE(, pf_interpolate_s16_s8, s8)
DEFINE_INTERPOLATE(, pf_interpolate_s16_s16, s16)
