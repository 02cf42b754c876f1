/* Where the windows of a convolution or a pool lie: walking over them, and which of their taps are there. */
#ifndef PICOFORMER_WINDOW_H
#define PICOFORMER_WINDOW_H

#include "picoformer/ops_window.h"

/* A window: its image, and where its first tap lies there, which may be outside. */
typedef struct pf_place {
    int32_t image, top, left;
} pf_place;

/* Taps first .. last - 1 of an axis. */
typedef struct pf_span {
    int32_t first, last;
} pf_span;

/* The window of that number, counted row by row through all images. */
static inline pf_place pf_place_at(const pf_window *w, int32_t index) {
    const int32_t line = index / w->columns, image = line / w->rows;
    const pf_place at = {image, (line - image * w->rows) * w->stride_h - w->pad_top,
                         (index - line * w->columns) * w->stride_w - w->pad_left};
    return at;
}

/* The one after it. */
static inline void pf_next_place(const pf_window *w, pf_place *at) {
    at->left += w->stride_w;
    if (at->left == w->columns * w->stride_w - w->pad_left) {
        at->left = -w->pad_left;
        at->top += w->stride_h;
        if (at->top == w->rows * w->stride_h - w->pad_top) {
            at->top = -w->pad_top;
            at->image++;
        }
    }
}

/* The taps of an axis that are there: `start` is where the first one lies, `size` how many entries there are. */
static inline pf_span pf_taps_inside(int32_t start, int32_t dilation, int32_t kernel, int32_t size) {
    pf_span taps = {0, kernel};
    while (taps.first < kernel && start + taps.first * dilation < 0) {
        taps.first++;
    }
    while (taps.last > taps.first && start + (taps.last - 1) * dilation >= size) {
        taps.last--;
    }
    return taps;
}

static inline pf_span pf_lines_inside(const pf_window *w, const pf_place *at) {
    return pf_taps_inside(at->top, w->dilation_h, w->kernel_h, w->height);
}

static inline pf_span pf_columns_inside(const pf_window *w, const pf_place *at) {
    return pf_taps_inside(at->left, w->dilation_w, w->kernel_w, w->width);
}

/* Elements before the tap (line, column) of a window, in an array of all images. */
static inline int32_t pf_tap_at(const pf_window *w, const pf_place *at, int32_t line, int32_t column) {
    const int32_t y = at->top + line * w->dilation_h, x = at->left + column * w->dilation_w;
    return ((at->image * w->height + y) * w->width + x) * w->channels;
}

#endif
