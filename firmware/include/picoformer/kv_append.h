/* New keys or values into their cache, each brought to the cache's grid by RESCALE, which computes what pf_rescale does. */
#ifndef PF_KV_APPEND_H
#define PF_KV_APPEND_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define PF_DEFINE_KV_APPEND(IN, OUT, RESCALE)                                                                                    \
    int pf_kv_append_##IN##_##OUT(const pf_kv_append *p, const PF_TYPE_##IN *rows, PF_TYPE_##OUT *cache, int32_t position,       \
                                  int32_t count) {                                                                               \
        const int32_t width = p->width, limit = (int32_t)1 << (p->bits - 1);                                                     \
        const int32_t multiplier = p->multiplier, shift = p->shift, zero_in = p->zero_in;                                        \
        if (position < 0 || count < 0 || count > p->block || count > p->positions || position > p->positions - count) {          \
            return PF_ERROR_INDEX;                                                                                               \
        }                                                                                                                        \
        const int32_t step = p->transposed ? p->positions : 1;                                                                   \
        cache += p->transposed ? position : position * width;                                                                    \
        for (int32_t r = 0; r < count; r++, rows += width, cache += p->transposed ? 1 : width) {                                 \
            PF_TYPE_##OUT *to = cache;                                                                                           \
            for (int32_t i = 0; i < width; i++, to += step) {                                                                    \
                const int32_t value = RESCALE(rows[i] - zero_in, multiplier, shift);                                             \
                *to = (PF_TYPE_##OUT)(value < -limit ? -limit : value >= limit ? limit - 1 : value);                             \
            }                                                                                                                    \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

#endif
