/* Which experts a row goes to, and what each counts. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "top_experts.h"

PF_DEFINE_TOP_EXPERTS(s8, int8_t)
PF_DEFINE_TOP_EXPERTS(s16, int16_t)

#define DEFINE_EXPERT_WEIGHTS(IN)                                                                                                \
    int pf_expert_weights_##IN##_s16(const pf_expert_weights *p, const PF_TYPE_##IN *x, const int32_t *ids, int16_t *y,          \
                                     int32_t rows) {                                                                             \
        const uint16_t *table = p->table;                                                                                        \
        const uint32_t multiplier = (uint32_t)p->multiplier;                                                                     \
        const int32_t experts = p->experts, chosen = p->chosen, shift = p->shift;                                                \
        for (int32_t r = 0; r < rows; r++, x += experts, ids += chosen, y += chosen) {                                           \
            int32_t top = PF_MIN_##IN;                                                                                           \
            for (int32_t j = 0; j < chosen; j++) {                                                                               \
                if (ids[j] < 0 || ids[j] >= experts) {                                                                           \
                    return PF_ERROR_INDEX;                                                                                       \
                }                                                                                                                \
                top = x[ids[j]] > top ? x[ids[j]] : top;                                                                         \
            }                                                                                                                    \
            uint32_t total = 0;                                                                                                  \
            for (int32_t j = 0; j < chosen; j++) {                                                                               \
                total += pf_numerator(table, (uint32_t)(top - x[ids[j]]), multiplier, shift);                                    \
            }                                                                                                                    \
            const pf_factor f = pf_scaled_reciprocal(p->mantissa, p->exponent, total);                                           \
            for (int32_t j = 0; j < chosen; j++) {                                                                               \
                const int64_t numerator = pf_numerator(table, (uint32_t)(top - x[ids[j]]), multiplier, shift);                   \
                const int64_t value = pf_rounding_shift(numerator * f.multiplier, f.shift);                                      \
                y[j] = PF_SATURATE(s16, value);                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
        return PF_OK;                                                                                                            \
    }

DEFINE_EXPERT_WEIGHTS(s8)
DEFINE_EXPERT_WEIGHTS(s16)
