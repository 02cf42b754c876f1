/* pf_finish_six_s8, pf_finish_six_s16 of packed_sums.h, in plain C. */
#ifndef PICOFORMER_FINISH_SIX_H
#define PICOFORMER_FINISH_SIX_H

#include "picoformer/fixedpoint.h"
#include "picoformer/packed_sums.h"

#define PF_DEFINE_FINISH_SIX(OUT)                                                                                                \
    static inline void pf_finish_six_##OUT(const int32_t *sums, const pf_finish *f, PF_TYPE_##OUT *y, int32_t step) {            \
        for (int32_t c = 0; c < PF_PACKED_ROWS; c++, y += step) {                                                                \
            const int32_t sum = (int32_t)((uint32_t)sums[c] << f->left);                                                         \
            const int32_t value = f->zero_point + pf_rounded_high(sum, f->multiplier);                                           \
            *y = PF_SATURATE(OUT, value);                                                                                        \
        }                                                                                                                        \
    }

PF_DEFINE_FINISH_SIX(s8)
PF_DEFINE_FINISH_SIX(s16)

#endif
