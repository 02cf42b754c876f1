/* The largest logits of a row, for any type: each is the first that comes behind the one before, by value and then by index. */
#ifndef PF_TOP_EXPERTS_H
#define PF_TOP_EXPERTS_H

#include "picoformer/ops.h"

#define PF_DEFINE_TOP_EXPERTS(NAME, TYPE)                                                                                        \
    void pf_top_experts_##NAME(const TYPE *x, int32_t *y, int32_t rows, int32_t experts, int32_t chosen) {                       \
        for (int32_t r = 0; r < rows; r++, x += experts, y += chosen) {                                                          \
            for (int32_t slot = 0; slot < chosen; slot++) {                                                                      \
                const int32_t before = slot > 0 ? y[slot - 1] : -1;                                                              \
                int32_t best = -1;                                                                                               \
                for (int32_t i = 0; i < experts; i++) {                                                                          \
                    const int is_left = before < 0 || x[i] < x[before] || (x[i] <= x[before] && i > before);                     \
                    best = is_left && (best < 0 || x[i] > x[best]) ? i : best;                                                   \
                }                                                                                                                \
                y[slot] = best;                                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
