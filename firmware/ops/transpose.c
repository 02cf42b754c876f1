/* Transpose: the output in order, the source by its strides. */
#include <string.h>

#include "picoformer/ops.h"

#define RANK_MAX 6

/* One line along the last output axis. The fixed sizes become single loads and stores. */
static void copy_line(uint8_t *dst, const uint8_t *src, int32_t count, int32_t stride, int32_t bytes) {
    switch (bytes) {
    case 1:
        for (int32_t i = 0; i < count; i++, src += stride) {
            dst[i] = *src;
        }
        break;
    case 2:
        for (int32_t i = 0; i < count; i++, dst += 2, src += stride) {
            memcpy(__builtin_assume_aligned(dst, 2), __builtin_assume_aligned(src, 2), 2);
        }
        break;
    case 4:
        for (int32_t i = 0; i < count; i++, dst += 4, src += stride) {
            memcpy(__builtin_assume_aligned(dst, 4), __builtin_assume_aligned(src, 4), 4);
        }
        break;
    default:
        for (int32_t i = 0; i < count; i++, dst += bytes, src += stride) {
            memcpy(dst, src, (size_t)bytes);
        }
    }
}

void pf_transpose(void *dst, const void *src, int32_t rank, const int32_t *shape, const int32_t *src_stride,
                  int32_t element_bytes) {
    int32_t index[RANK_MAX] = {0};
    uint8_t *to = dst;
    const uint8_t *from = src;
    const int32_t last = rank - 1;
    int32_t axis;
    do {
        copy_line(to, from, shape[last], src_stride[last], element_bytes);
        to += shape[last] * element_bytes;
        for (axis = last - 1; axis >= 0; axis--) {
            from += src_stride[axis];
            if (++index[axis] < shape[axis]) {
                break;
            }
            from -= shape[axis] * src_stride[axis];
            index[axis] = 0;
        }
    } while (axis >= 0);
}
