/* A function of one int8 number as a table of all its values. */
#include "lookup.h"
#include "picoformer/ops.h"

DEFINE_TABLE_s8(, pf_table_s8_s8) DEFINE_TABLE_s16(, pf_table_s8_s16, s8, LOAD_INDEX_s8)
