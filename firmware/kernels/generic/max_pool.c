/* MaxPool: the largest entry of each window, channel by channel. */
#include "picoformer/fixedpoint.h"
#include "picoformer/window.h"

#define DEFINE_MAX_POOL(TYPE)                                                                                                    \
    void pf_max_pool_##TYPE(const pf_window *w, const PF_TYPE_##TYPE *x, PF_TYPE_##TYPE *y, int32_t first, int32_t rows) {       \
        const int32_t channels = w->channels;                                                                                    \
        pf_place at = pf_place_at(w, first);                                                                                     \
        for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at), y += channels) {                                               \
            const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);                                  \
            for (int32_t line = lines.first; line < lines.last; line++) {                                                        \
                for (int32_t column = columns.first; column < columns.last; column++) {                                          \
                    const PF_TYPE_##TYPE *entry = x + pf_tap_at(w, &at, line, column);                                           \
                    const int is_first = line == lines.first && column == columns.first;                                         \
                    for (int32_t c = 0; c < channels; c++) {                                                                     \
                        y[c] = is_first || entry[c] > y[c] ? entry[c] : y[c];                                                    \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_MAX_POOL(s8)
DEFINE_MAX_POOL(s16)
