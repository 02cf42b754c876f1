/* AveragePool: the sum of each window, channel by channel, times the reciprocal of how many entries there are. */
#include "picoformer/fixedpoint.h"
#include "picoformer/window.h"

#define DEFINE_AVERAGE_POOL(IN, OUT)                                                                                             \
    void pf_average_pool_##IN##_##OUT(const pf_average_pool *p, const pf_window *w, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y,     \
                                      int32_t first, int32_t rows) {                                                             \
        const int32_t channels = w->channels, zero_point = p->zero_point, taps = w->kernel_h * w->kernel_w;                      \
        pf_factor f = pf_scaled_reciprocal(p->mantissa, p->exponent, (uint32_t)taps);                                            \
        int32_t divisor = taps;                                                                                                  \
        pf_place at = pf_place_at(w, first);                                                                                     \
        for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at)) {                                                              \
            const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);                                  \
            const int32_t wide = columns.last - columns.first, count = (lines.last - lines.first) * wide;                        \
            if (!p->include_pad && count != divisor) {                                                                           \
                divisor = count;                                                                                                 \
                f = pf_scaled_reciprocal(p->mantissa, p->exponent, (uint32_t)divisor);                                           \
            }                                                                                                                    \
            const int32_t zeros = count * p->zero_in, tap = w->dilation_w * channels;                                            \
            const int32_t next_line = w->dilation_h * w->width * channels - wide * tap;                                          \
            const PF_TYPE_##IN *corner = x + pf_tap_at(w, &at, lines.first, columns.first);                                      \
            for (int32_t c = 0, some = 4; c < channels; c += some, corner += some) {                                             \
                const PF_TYPE_##IN *entry = corner;                                                                              \
                int32_t totals[4] = {-zeros, -zeros, -zeros, -zeros};                                                            \
                some = channels - c < 4 ? 1 : 4;                                                                                 \
                for (int32_t line = lines.first; line < lines.last; line++, entry += next_line) {                                \
                    for (int32_t column = 0; some == 4 && column < wide; column++, entry += tap) {                               \
                        totals[0] += entry[0];                                                                                   \
                        totals[1] += entry[1];                                                                                   \
                        totals[2] += entry[2];                                                                                   \
                        totals[3] += entry[3];                                                                                   \
                    }                                                                                                            \
                    for (int32_t column = 0; some == 1 && column < wide; column++, entry += tap) {                               \
                        totals[0] += entry[0];                                                                                   \
                    }                                                                                                            \
                }                                                                                                                \
                for (int32_t i = 0; i < some; i++) {                                                                             \
                    const int64_t value = zero_point + pf_rounding_shift((int64_t)totals[i] * f.multiplier, f.shift);            \
                    *y++ = PF_SATURATE(OUT, value);                                                                              \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_AVERAGE_POOL(s8, s8)
DEFINE_AVERAGE_POOL(s8, s16)
DEFINE_AVERAGE_POOL(s16, s8)
DEFINE_AVERAGE_POOL(s16, s16)
