/* Copying blocks of bytes: slices, concatenations, the rows of anything. */
#include <string.h>

#include "picoformer/ops.h"

void pf_copy_blocks(void *dst, const void *src, int32_t count, int32_t bytes, int32_t dst_stride, int32_t src_stride) {
    uint8_t *to = dst;
    const uint8_t *from = src;
    if (bytes == dst_stride && bytes == src_stride) {
        memcpy(to, from, (size_t)count * (size_t)bytes);
        return;
    }
    for (int32_t i = 0; i < count; i++, to += dst_stride, from += src_stride) {
        memcpy(to, from, (size_t)bytes);
    }
}
