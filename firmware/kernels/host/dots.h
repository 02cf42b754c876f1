/* Eight sums of products of int16, written so that a vectorizing compiler finds the multiply-add of pairs (pmaddwd and its like).
 */
#ifndef PF_HOST_DOTS_H
#define PF_HOST_DOTS_H

#include <stdint.h>

#define PF_LANES 16 /* every row is filled up with zeros to a multiple of it */

static inline int32_t pf_lanes(int32_t count) {
    return (count + PF_LANES - 1) / PF_LANES * PF_LANES;
}

/* Two rows, each with four columns: all `length` apart and long. */
static inline void pf_dots(const int16_t *restrict rows, const int16_t *restrict columns, int32_t length, int32_t *restrict first,
                           int32_t *restrict second) {
    const int16_t *x = rows, *y = rows + length;
    const int16_t *a = columns, *b = a + length, *c = b + length, *d = c + length;
    int32_t ax = 0, bx = 0, cx = 0, dx = 0, ay = 0, by = 0, cy = 0, dy = 0;
    for (int32_t j = 0; j < length; j++) {
        ax += x[j] * a[j];
        bx += x[j] * b[j];
        cx += x[j] * c[j];
        dx += x[j] * d[j];
        ay += y[j] * a[j];
        by += y[j] * b[j];
        cy += y[j] * c[j];
        dy += y[j] * d[j];
    }
    first[0] = ax;
    first[1] = bx;
    first[2] = cx;
    first[3] = dx;
    second[0] = ay;
    second[1] = by;
    second[2] = cy;
    second[3] = dy;
}

#define PF_DEFINE_WIDEN(IN)                                                                                                      \
    static inline void pf_widen_##IN(const PF_TYPE_##IN *restrict x, int32_t count, int16_t *restrict to) {                      \
        for (int32_t i = 0; i < count; i++) {                                                                                    \
            to[i] = x[i];                                                                                                        \
        }                                                                                                                        \
        for (int32_t i = count; i < pf_lanes(count); i++) {                                                                      \
            to[i] = 0;                                                                                                           \
        }                                                                                                                        \
    }

#endif
