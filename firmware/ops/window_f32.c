/* DepthwiseConv, MaxPool and AveragePool in float. */
#include "picoformer/window.h"

void pf_depthwise_f32(const pf_depthwise_f32_params *p, const pf_window *w, const float *x, float *y, int32_t first,
                      int32_t rows) {
    const int32_t channels = w->channels;
    pf_place at = pf_place_at(w, first);
    for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at), y += channels) {
        const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);
        for (int32_t c = 0; c < channels; c++) {
            float sum = p->bias ? p->bias[c] : 0.0f;
            for (int32_t line = lines.first; line < lines.last; line++) {
                for (int32_t column = columns.first; column < columns.last; column++) {
                    const float *weight = p->weight + (line * w->kernel_w + column) * channels;
                    sum += weight[c] * x[pf_tap_at(w, &at, line, column) + c];
                }
            }
            y[c] = sum;
        }
    }
}

void pf_max_pool_f32(const pf_window *w, const float *x, float *y, int32_t first, int32_t rows) {
    const int32_t channels = w->channels;
    pf_place at = pf_place_at(w, first);
    for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at), y += channels) {
        const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);
        for (int32_t c = 0; c < channels; c++) {
            float largest = x[pf_tap_at(w, &at, lines.first, columns.first) + c];
            for (int32_t line = lines.first; line < lines.last; line++) {
                for (int32_t column = columns.first; column < columns.last; column++) {
                    const float entry = x[pf_tap_at(w, &at, line, column) + c];
                    largest = entry > largest ? entry : largest;
                }
            }
            y[c] = largest;
        }
    }
}

void pf_average_pool_f32(const pf_window *w, const float *x, float *y, int32_t include_pad, int32_t first, int32_t rows) {
    const int32_t channels = w->channels, taps = w->kernel_h * w->kernel_w;
    pf_place at = pf_place_at(w, first);
    for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at), y += channels) {
        const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);
        const int32_t inside = (lines.last - lines.first) * (columns.last - columns.first);
        const float share = 1.0f / (float)(include_pad ? taps : inside);
        for (int32_t c = 0; c < channels; c++) {
            float sum = 0.0f;
            for (int32_t line = lines.first; line < lines.last; line++) {
                for (int32_t column = columns.first; column < columns.last; column++) {
                    sum += x[pf_tap_at(w, &at, line, column) + c];
                }
            }
            y[c] = sum * share;
        }
    }
}
