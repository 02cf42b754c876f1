/* MaxPool: the largest entry of each window, a word of channels at a time: SSUB sets a flag for each of its numbers, SEL chooses
 * by them. 1.5 instructions for each tap and channel of 8 bits, where plain C takes 9. */
#include "picoformer/fixedpoint.h"
#include "picoformer/window.h"

#define DEFINE_LARGER(TYPE, SUBTRACT)                                                                                            \
    static inline uint32_t larger_##TYPE(uint32_t a, uint32_t b) {                                                               \
        uint32_t result;                                                                                                         \
        __asm__(SUBTRACT " %0, %1, %2\n sel %0, %1, %2" : "=&r"(result) : "r"(a), "r"(b) : "cc");                                \
        return result;                                                                                                           \
    }

#define DEFINE_MAX_POOL(TYPE)                                                                                                    \
    /* y[i] = max(y[i], x[i]) */                                                                                                 \
    static void take_##TYPE(const PF_TYPE_##TYPE *x, PF_TYPE_##TYPE *y, int32_t count) {                                         \
        const int32_t each = 4 / (int32_t)sizeof(PF_TYPE_##TYPE);                                                                \
        for (; count >= each; count -= each, x += each, y += each) {                                                             \
            uint32_t a, b;                                                                                                       \
            __builtin_memcpy(&a, x, 4);                                                                                          \
            __builtin_memcpy(&b, y, 4);                                                                                          \
            a = larger_##TYPE(a, b);                                                                                             \
            __builtin_memcpy(y, &a, 4);                                                                                          \
        }                                                                                                                        \
        for (; count > 0; count--, x++, y++) {                                                                                   \
            *y = *x > *y ? *x : *y;                                                                                              \
        }                                                                                                                        \
    }                                                                                                                            \
                                                                                                                                 \
    void pf_max_pool_##TYPE(const pf_window *w, const PF_TYPE_##TYPE *x, PF_TYPE_##TYPE *y, int32_t first, int32_t rows) {       \
        const int32_t channels = w->channels;                                                                                    \
        pf_place at = pf_place_at(w, first);                                                                                     \
        for (int32_t r = 0; r < rows; r++, pf_next_place(w, &at), y += channels) {                                               \
            const pf_span lines = pf_lines_inside(w, &at), columns = pf_columns_inside(w, &at);                                  \
            const PF_TYPE_##TYPE *entry = x + pf_tap_at(w, &at, lines.first, columns.first);                                     \
            for (int32_t i = 0; i < channels; i++) {                                                                             \
                y[i] = entry[i];                                                                                                 \
            }                                                                                                                    \
            for (int32_t line = lines.first; line < lines.last; line++) {                                                        \
                for (int32_t column = line == lines.first ? columns.first + 1 : columns.first; column < columns.last;            \
                     column++) {                                                                                                 \
                    take_##TYPE(x + pf_tap_at(w, &at, line, column), y, channels);                                               \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_LARGER(s8, "ssub8")
DEFINE_LARGER(s16, "ssub16")
DEFINE_MAX_POOL(s8)
DEFINE_MAX_POOL(s16)
