/* Patches: the windows of an image lined up as rows, for a linear layer to read. */
#include <string.h>

#include "picoformer/window.h"

void pf_patches(const pf_window *w, void *y, const void *x, int32_t fill, int32_t first, int32_t rows) {
    uint8_t *to = y;
    const uint8_t *image = x;
    const int32_t bytes = w->channels, line_bytes = w->kernel_w * bytes;
    const int32_t next_line = w->dilation_h * w->width * bytes;
    pf_place at = pf_place_at(w, first);
    for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at)) {
        const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);
        const int32_t before = columns.first * bytes, inside = (columns.last - columns.first) * bytes;
        const uint8_t *from = image + pf_tap_at(w, &at, lines.first, columns.first);
        for (int32_t line = 0; line < w->kernel_h; line++, to += line_bytes) {
            if (line < lines.first || line >= lines.last || inside == 0) {
                memset(to, fill, (size_t)line_bytes);
                continue;
            }
            if (inside < line_bytes) {
                memset(to, fill, (size_t)before);
                memset(to + before + inside, fill, (size_t)(line_bytes - before - inside));
            }
            if (w->dilation_w == 1) {
                memcpy(to + before, from, (size_t)inside);
            } else {
                for (int32_t i = 0; i < inside; i += bytes) {
                    memcpy(to + before + i, from + i * w->dilation_w, (size_t)bytes);
                }
            }
            from += next_line;
        }
    }
}
