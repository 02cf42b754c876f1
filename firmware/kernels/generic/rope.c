/* Rotations by position: the pairs of every head turned. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

int pf_rope_s16(const pf_rope *p, const int16_t *x, int16_t *y, int32_t position, int32_t rows) {
    const int32_t rotary = p->rotary, rest = p->head_size - rotary;
    const int32_t step = p->interleaved ? 2 : 1, apart = p->interleaved ? 1 : rotary / 2;
    if (position < 0 || rows > p->positions || position > p->positions - rows) {
        return PF_ERROR_INDEX;
    }
    const int16_t *row = p->rotations + position * rotary;
    for (int32_t r = 0; r < rows; r++, row += rotary) {
        for (int32_t h = 0; h < p->heads; h++, x += p->head_size, y += p->head_size) {
            for (int32_t i = 0, at = 0; i < rotary; i += 2, at += step) {
                const int32_t c = row[i], s = row[i + 1], x0 = x[at], x1 = x[at + apart];
                const int32_t y0 = (x0 * c - x1 * s + 0x2000) >> 14, y1 = (x0 * s + x1 * c + 0x2000) >> 14;
                y[at] = PF_SATURATE(s16, y0);
                y[at + apart] = PF_SATURATE(s16, y1);
            }
            for (int32_t i = 0; i < rest; i++) {
                y[rotary + i] = x[rotary + i];
            }
        }
    }
    return PF_OK;
}
