/* Layer normalization of one row with SMLAD and SMLALD for the sums, SMMLAR and SSAT for the elements. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
#include "picoformer/layer_norm_factor.h"

#define ONES 0x00010001u

/* Two int16 of any alignment; four int8 likewise. */
static inline uint32_t load_word(const void *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
}

/* sum + low(a) * low(b) + high(a) * high(b) */
static inline int32_t add_products(int32_t sum, uint32_t a, uint32_t b) {
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

static inline uint64_t add_squares(uint64_t sum, uint32_t a) {
    __asm__("smlald %Q0, %R0, %1, %1" : "+r"(sum) : "r"(a));
    return sum;
}

static pf_factor row_factor_s16(const pf_layer_norm *p, const int16_t *x, int32_t *total) {
    const int32_t width = p->width;
    int32_t sum = 0, i = 0;
    uint64_t squares = 0;
    for (; i + 8 <= width; i += 8) {
        const uint32_t a = load_word(x + i), b = load_word(x + i + 2), c = load_word(x + i + 4), d = load_word(x + i + 6);
        sum = add_products(add_products(add_products(add_products(sum, a, ONES), b, ONES), c, ONES), d, ONES);
        squares = add_squares(add_squares(add_squares(add_squares(squares, a), b), c), d);
    }
    for (; i < width; i++) {
        sum += x[i];
        squares += (uint64_t)(uint32_t)(x[i] * x[i]);
    }
    *total = sum;
    return pf_row_factor(p, sum, squares);
}

static pf_factor row_factor_s8(const pf_layer_norm *p, const int8_t *x, int32_t *total) {
    const int32_t width = p->width;
    int32_t sum = 0, squares = 0, i = 0; /* fewer than 2^15 squares of at most 2^14 */
    for (; i + 4 <= width; i += 4) {
        uint32_t even, odd;
        const uint32_t word = load_word(x + i);
        __asm__("sxtb16 %0, %1" : "=r"(even) : "r"(word));
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(word));
        sum = add_products(add_products(sum, even, ONES), odd, ONES);
        squares = add_products(add_products(squares, even, even), odd, odd);
    }
    for (; i < width; i++) {
        sum += x[i];
        squares += x[i] * x[i];
    }
    *total = sum;
    return pf_row_factor(p, sum, (uint64_t)(uint32_t)squares);
}

/* What is the same for a row: u = rounded high word of (x * slope - start) * multiplier. With scale = 2^(32-shift), slope is
 * width * scale and start total * scale; both may pass 32 bits while their difference does not (see the generic kernel). */
typedef struct line {
    uint32_t slope, start;
    int32_t multiplier;
} line;

static inline line line_of(const pf_layer_norm *p, pf_factor f, int32_t total) {
    const uint32_t scale = (uint32_t)1 << (32 - f.shift);
    const line result = {(uint32_t)p->width * scale, (uint32_t)total * scale, f.multiplier};
    return result;
}

/* base + u */
static inline int32_t unit(const line *l, int32_t x, int32_t base) {
    const uint32_t d = (uint32_t)x * l->slope - l->start;
    __asm__("smmlar %0, %1, %2, %0" : "+r"(base) : "r"(d), "r"(l->multiplier));
    return base;
}

#define SSAT_s8  "ssat %0, #8, %1"
#define SSAT_s16 "ssat %0, #16, %1"
#define DEFINE_ROW(IN, OUT)                                                                                                      \
    static inline PF_TYPE_##OUT element_##IN##_##OUT(const line *l, PF_TYPE_##IN x, int32_t zero_point) {                        \
        int32_t result;                                                                                                          \
        __asm__(SSAT_##OUT : "=r"(result) : "r"(unit(l, x, zero_point)));                                                        \
        return (PF_TYPE_##OUT)result;                                                                                            \
    }                                                                                                                            \
    void pf_layer_norm_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                       \
        const int32_t width = p->width, zero_point = p->zero_point;                                                              \
        int32_t total, i = 0;                                                                                                    \
        const pf_factor f = row_factor_##IN(p, x, &total);                                                                       \
        const line l = line_of(p, f, total);                                                                                     \
        for (; i + 4 <= width; i += 4) {                                                                                         \
            y[i] = element_##IN##_##OUT(&l, x[i], zero_point);                                                                   \
            y[i + 1] = element_##IN##_##OUT(&l, x[i + 1], zero_point);                                                           \
            y[i + 2] = element_##IN##_##OUT(&l, x[i + 2], zero_point);                                                           \
            y[i + 3] = element_##IN##_##OUT(&l, x[i + 3], zero_point);                                                           \
        }                                                                                                                        \
        for (; i < width; i++) {                                                                                                 \
            y[i] = element_##IN##_##OUT(&l, x[i], zero_point);                                                                   \
        }                                                                                                                        \
    }                                                                                                                            \
    void pf_layer_norm_gain_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                  \
        const int32_t width = p->width, zero_point = p->zero_point, shift = p->shift;                                            \
        const int32_t *gain = p->gain;                                                                                           \
        const int64_t *offset = p->offset;                                                                                       \
        int32_t total;                                                                                                           \
        const pf_factor f = row_factor_##IN(p, x, &total);                                                                       \
        const line l = line_of(p, f, total);                                                                                     \
        for (int32_t i = 0; i < width; i++) {                                                                                    \
            const int64_t u = unit(&l, x[i], 0);                                                                                 \
            const int64_t value = zero_point + pf_rounding_shift(u * gain[i] + offset[i], shift);                                \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

DEFINE_ROW(s8, s8)
DEFINE_ROW(s8, s16)
DEFINE_ROW(s16, s8)
DEFINE_ROW(s16, s16)
