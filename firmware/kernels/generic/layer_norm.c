/* LayerNorm: row by row; what one row does is a primitive. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define DEFINE_LAYER_NORM(IN, OUT)                                                                                               \
    void pf_layer_norm_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows) {             \
        for (int32_t r = 0; r < rows; r++, x += p->width, y += p->width) {                                                       \
            pf_layer_norm_row_##IN##_##OUT(p, x, y);                                                                             \
        }                                                                                                                        \
    }                                                                                                                            \
    void pf_layer_norm_gain_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows) {        \
        for (int32_t r = 0; r < rows; r++, x += p->width, y += p->width) {                                                       \
            pf_layer_norm_gain_row_##IN##_##OUT(p, x, y);                                                                        \
        }                                                                                                                        \
    }

DEFINE_LAYER_NORM(s8, s8)
DEFINE_LAYER_NORM(s8, s16)
DEFINE_LAYER_NORM(s16, s8)
DEFINE_LAYER_NORM(s16, s16)
