/* Sums of two lines of int16 on one grid, two at a time by QADD16. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* y[0..1] = a + b for two elements of any alignment */
static inline void add_two(const int16_t *a, const int16_t *b, int16_t *y) {
    uint32_t left, right;
    __builtin_memcpy(&left, a, 4);
    __builtin_memcpy(&right, b, 4);
    __asm__("qadd16 %0, %1, %2" : "=r"(left) : "r"(left), "r"(right));
    __builtin_memcpy(y, &left, 4);
}

void pf_add_plain_span_s16(const int16_t *a, const int16_t *b, int32_t b_step, int16_t *y, int32_t count) {
    int32_t i = 0;
    for (; b_step == 1 && i + 8 <= count; i += 8, a += 8, b += 8, y += 8) {
        add_two(a, b, y);
        add_two(a + 2, b + 2, y + 2);
        add_two(a + 4, b + 4, y + 4);
        add_two(a + 6, b + 6, y + 6);
    }
    for (; i < count; i++, a++, b += b_step, y++) {
        const int32_t value = *a + *b;
        *y = PF_SATURATE(s16, value);
    }
}
