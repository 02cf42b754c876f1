/* A small kernel for each channel of an image: the taps that are there, four channels at a time, then those that are not. */
#include "picoformer/fixedpoint.h"
#include "picoformer/window.h"

/* totals[i] += the weights of `taps` neighbouring taps. */
static inline void add_weights(const int8_t *weight, int32_t taps, int32_t channels, int32_t count, int32_t *totals) {
    for (; count == 4 && taps > 0; taps--, weight += channels) {
        totals[0] += weight[0];
        totals[1] += weight[1];
        totals[2] += weight[2];
        totals[3] += weight[3];
    }
    for (; taps > 0; taps--, weight += channels) {
        totals[0] += weight[0];
    }
}

/* sums[i] += zero * the weights of the taps outside, for `count` channels, 1 or 4. */
static void add_outside(const pf_window *w, pf_span lines, pf_span columns, const int8_t *weight, int32_t zero, int32_t count,
                        int32_t *sums) {
    const int32_t channels = w->channels, taps = w->kernel_w, line_weights = taps * channels;
    int32_t totals[4] = {0, 0, 0, 0};
    add_weights(weight, lines.first * taps, channels, count, totals);
    weight += lines.first * line_weights;
    for (int32_t line = lines.first; line < lines.last; line++, weight += line_weights) {
        add_weights(weight, columns.first, channels, count, totals);
        add_weights(weight + columns.last * channels, taps - columns.last, channels, count, totals);
    }
    add_weights(weight, (w->kernel_h - lines.last) * taps, channels, count, totals);
    for (int32_t i = 0; i < count; i++) {
        sums[i] += totals[i] * zero;
    }
}

#define DEFINE_DEPTHWISE(IN, OUT)                                                                                                \
    void pf_depthwise_##IN##_##OUT(const pf_depthwise *p, const pf_window *w, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y,           \
                                   int32_t first, int32_t rows) {                                                                \
        const int32_t channels = w->channels, shift = p->shift, zero_point = p->zero_point;                                      \
        const int32_t tap = w->dilation_w * channels;                                                                            \
        pf_place at = pf_place_at(w, first);                                                                                     \
        for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at)) {                                                              \
            const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);                                  \
            const int32_t high = lines.last - lines.first, wide = columns.last - columns.first;                                  \
            const int32_t next_line = w->dilation_h * w->width * channels - wide * tap;                                          \
            const int32_t next_weights = (w->kernel_w - wide) * channels;                                                        \
            const int has_outside = p->zero_in != 0 && (high < w->kernel_h || wide < w->kernel_w);                               \
            const PF_TYPE_##IN *corner = x + pf_tap_at(w, &at, lines.first, columns.first);                                      \
            const int8_t *weights = p->weight + (lines.first * w->kernel_w + columns.first) * channels;                          \
            for (int32_t c = 0, count = 4; c < channels; c += count, corner += count, weights += count) {                        \
                const PF_TYPE_##IN *entry = corner;                                                                              \
                const int8_t *weight = weights;                                                                                  \
                const int32_t *bias = p->bias + c;                                                                               \
                count = channels - c < 4 ? 1 : 4;                                                                                \
                int32_t sums[4] = {bias[0], 0, 0, 0};                                                                            \
                if (count == 4) {                                                                                                \
                    int32_t a0 = bias[0], a1 = bias[1], a2 = bias[2], a3 = bias[3];                                              \
                    for (int32_t line = high; line > 0; line--, entry += next_line, weight += next_weights) {                    \
                        for (int32_t column = wide; column > 0; column--, weight += channels, entry += tap) {                    \
                            a0 += weight[0] * entry[0];                                                                          \
                            a1 += weight[1] * entry[1];                                                                          \
                            a2 += weight[2] * entry[2];                                                                          \
                            a3 += weight[3] * entry[3];                                                                          \
                        }                                                                                                        \
                    }                                                                                                            \
                    sums[0] = a0, sums[1] = a1, sums[2] = a2, sums[3] = a3;                                                      \
                } else {                                                                                                         \
                    for (int32_t line = high; line > 0; line--, entry += next_line, weight += next_weights) {                    \
                        for (int32_t column = wide; column > 0; column--, weight += channels, entry += tap) {                    \
                            sums[0] += weight[0] * entry[0];                                                                     \
                        }                                                                                                        \
                    }                                                                                                            \
                }                                                                                                                \
                if (has_outside) {                                                                                               \
                    add_outside(w, lines, columns, p->weight + c, p->zero_in, count, sums);                                      \
                }                                                                                                                \
                for (int32_t i = 0; i < count; i++) {                                                                            \
                    const int32_t value = zero_point + pf_rescale(sums[i], p->multiplier[c + i], shift);                         \
                    *y++ = PF_SATURATE(OUT, value);                                                                              \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_DEPTHWISE(s8, s8)
DEFINE_DEPTHWISE(s8, s16)
DEFINE_DEPTHWISE(s16, s8)
DEFINE_DEPTHWISE(s16, s16)
