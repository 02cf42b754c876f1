/* Patches: the windows of an image lined up as rows, for a linear layer to read. */
#include <string.h>

#include "picoformer/window.h"

/* Copying, most often of a few bytes: a call would take longer. */
static inline void copy(uint8_t *to, const uint8_t *from, int32_t bytes) {
    if (bytes > 32) {
        memcpy(to, from, (size_t)bytes);
        return;
    }
    for (; bytes >= 4; bytes -= 4, to += 4, from += 4) {
        __builtin_memcpy(to, from, 4);
    }
    for (; bytes > 0; bytes--) {
        *to++ = *from++;
    }
}

static inline void put(uint8_t *to, int32_t fill, int32_t bytes) {
    if (bytes > 32) {
        memset(to, fill, (size_t)bytes);
        return;
    }
    for (; bytes > 0; bytes--) {
        *to++ = (uint8_t)fill;
    }
}

/* A window of which some taps are not there, or whose taps are apart. Its size in bytes. */
static int32_t put_window(const pf_window *w, const pf_place *at, uint8_t *to, const uint8_t *image, int32_t fill) {
    const pf_span lines = pf_lines_inside(w, at), columns = pf_columns_inside(w, at);
    const int32_t bytes = w->channels, apart = w->dilation_w, line_bytes = w->kernel_w * bytes, high = w->kernel_h;
    const int32_t before = columns.first * bytes, inside = (columns.last - columns.first) * bytes;
    const int32_t next_line = w->dilation_h * w->width * bytes;
    const uint8_t *from = image + pf_tap_at(w, at, lines.first, columns.first);
    for (int32_t line = 0; line < high; line++, to += line_bytes) {
        if (line < lines.first || line >= lines.last || inside == 0) {
            put(to, fill, line_bytes);
            continue;
        }
        put(to, fill, before);
        for (int32_t i = 0; apart > 1 && i < inside; i += bytes) {
            copy(to + before + i, from + i * apart, bytes);
        }
        if (apart == 1) {
            copy(to + before, from, inside);
        }
        put(to + before + inside, fill, line_bytes - before - inside);
        from += next_line;
    }
    return high * line_bytes;
}

void pf_patches(const pf_window *w, void *y, const void *x, int32_t fill, int32_t first, int32_t rows) {
    uint8_t *to = y;
    const int32_t bytes = w->channels, line_bytes = w->kernel_w * bytes, high = w->kernel_h;
    const int32_t next_line = w->dilation_h * w->width * bytes;
    const int32_t bottom = w->height - w->dilation_h * (high - 1), right = w->width - w->kernel_w + 1;
    const int is_joined = w->dilation_w == 1;
    pf_place at = pf_place_at(w, first);
    for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at)) {
        if (!is_joined || at.top < 0 || at.left < 0 || at.top >= bottom || at.left >= right) {
            to += put_window(w, &at, to, x, fill);
            continue;
        }
        const uint8_t *from = (const uint8_t *)x + pf_tap_at(w, &at, 0, 0);
        for (int32_t line = high; line > 0; line--, to += line_bytes, from += next_line) {
            copy(to, from, line_bytes);
        }
    }
}
