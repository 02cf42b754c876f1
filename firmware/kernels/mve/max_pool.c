/* MaxPool: the largest entry of each window, a vector of channels at a time. */
#include "picoformer/fixedpoint.h"
#include "picoformer/window.h"

/* r0 x, r1 y, r2 count. In C: for (; count > 0; count--, x++, y++) *y = *x > *y ? *x : *y */
#define DEFINE_TAKE(TYPE, BITS, LOAD, STORE)                                                                                     \
    __attribute__((naked, noinline)) static void take_##TYPE(const PF_TYPE_##TYPE *x __attribute__((unused)),                    \
                                                             PF_TYPE_##TYPE *y __attribute__((unused)),                          \
                                                             int32_t count __attribute__((unused))) {                            \
        __asm__ volatile(" push {r4, lr}\n"                                                                                      \
                         " dlstp." BITS " lr, r2\n"                                                                              \
                         "1: " LOAD " q0, [r0], #16\n"                                                                           \
                         " " LOAD " q1, [r1]\n"                                                                                  \
                         " vmax.s" BITS " q0, q0, q1\n"                                                                          \
                         " " STORE " q0, [r1], #16\n"                                                                            \
                         " letp lr, 1b\n"                                                                                        \
                         " pop {r4, pc}\n");                                                                                     \
    }

#define DEFINE_MAX_POOL(TYPE)                                                                                                    \
    void pf_max_pool_##TYPE(const pf_window *w, const PF_TYPE_##TYPE *x, PF_TYPE_##TYPE *y, int32_t first, int32_t rows) {       \
        const int32_t channels = w->channels;                                                                                    \
        pf_place at = pf_place_at(w, first);                                                                                     \
        for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at), y += channels) {                                               \
            const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);                                  \
            for (int32_t i = 0; i < channels; i++) {                                                                             \
                y[i] = PF_MIN_##TYPE;                                                                                            \
            }                                                                                                                    \
            for (int32_t line = lines.first; line < lines.last; line++) {                                                        \
                for (int32_t column = columns.first; column < columns.last; column++) {                                          \
                    take_##TYPE(x + pf_tap_at(w, &at, line, column), y, channels);                                               \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_TAKE(s8, "8", "vldrb.8", "vstrb.8")
DEFINE_TAKE(s16, "16", "vldrh.16", "vstrh.16")
DEFINE_MAX_POOL(s8)
DEFINE_MAX_POOL(s16)
