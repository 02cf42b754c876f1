/* Rows filled up with zeros to whole vectors of 16 bytes. */
#ifndef PF_MVE_FILLED_ROWS_H
#define PF_MVE_FILLED_ROWS_H

#include <arm_mve.h>

/* `count` rows of `size` elements, `stride` elements apart, one behind the other. */
__attribute__((noinline, unused)) static void fill_strided_s8(const int8_t *x, int32_t stride, int8_t *out, int32_t count,
                                                              int32_t size) {
    for (; count > 0; count--, x += stride) {
        for (int32_t i = 0; i < size; i += 16, out += 16) {
            vst1q_s8(out, vld1q_z_s8(x + i, vctp8q((uint32_t)(size - i))));
        }
    }
}

__attribute__((noinline, unused)) static void fill_strided_s16(const int16_t *x, int32_t stride, int16_t *out, int32_t count,
                                                               int32_t size) {
    for (; count > 0; count--, x += stride) {
        for (int32_t i = 0; i < size; i += 8, out += 8) {
            vst1q_s16(out, vld1q_z_s16(x + i, vctp16q((uint32_t)(size - i))));
        }
    }
}

#endif
