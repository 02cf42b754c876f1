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

/* Adds up `turns` times 16 elements of an aligned row and their squares, in C:
 *     for (; turns > 0; turns--, x += 16)
 *         for (int32_t i = 0; i < 16; i++) sums->squares += x[i] * x[i], sums->total += x[i]; */
typedef struct row_sums {
    uint64_t squares;
    int32_t total;
} row_sums;

__attribute__((naked, noinline)) static void
add_up(const int16_t *x __attribute__((unused)), int32_t turns __attribute__((unused)), row_sums *sums __attribute__((unused))) {
    __asm__ volatile(" push {r2, r4-r11, lr}\n"
                     " mov r2, #0\n mov r3, #0\n mov r12, #0\n"
                     " mov lr, #0x00010001\n"
                     "1: ldmia r0!, {r4-r11}\n"
                     " .irp word, r4, r5, r6, r7, r8, r9, r10, r11\n"
                     " smlad r12, \\word, lr, r12\n"
                     " smlald r2, r3, \\word, \\word\n"
                     " .endr\n"
                     " subs r1, r1, #1\n"
                     " bne 1b\n"
                     " ldr r0, [sp]\n"
                     " stmia r0, {r2, r3, r12}\n"
                     " pop {r2, r4-r11, pc}\n");
}

static inline int32_t is_aligned(const void *p) {
    return ((uintptr_t)p & 3u) == 0;
}

static pf_factor row_factor_s16(const pf_layer_norm *p, const int16_t *x, int32_t *total) {
    const int32_t width = p->width;
    row_sums sums = {0, 0};
    int32_t i = 0;
    if (width >= 16 && is_aligned(x)) {
        add_up(x, width / 16, &sums);
        i = width / 16 * 16;
    }
    for (; i + 2 <= width; i += 2) {
        const uint32_t pair = load_word(x + i);
        sums.total = add_products(sums.total, pair, ONES);
        sums.squares = add_squares(sums.squares, pair);
    }
    if (i < width) {
        sums.total += x[i];
        sums.squares += (uint64_t)(uint32_t)(x[i] * x[i]);
    }
    *total = sums.total;
    return pf_row_factor(p, sums.total, sums.squares);
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
/* `turns` times 8 elements of an aligned row whose factor has the shift 32, int16 to an aligned row too, in C:
 *     for (; turns > 0; turns--, x += 8, y += 8)
 *         for (int32_t i = 0; i < 8; i++) y[i] = saturate(zero_point + rounded high word of (width * x[i] - total) * multiplier);
 */
typedef struct row_turns {
    int32_t turns, width, less_total, multiplier, zero_point;
} row_turns;

/* STORE_TWO: what becomes of two saturated elements in r8 and r9, whose input was \\word. STORE_EIGHT: what then is left to do.
 */
#define DEFINE_NORMALIZE(OUT, BITS, STORE_TWO, STORE_EIGHT)                                                                      \
    __attribute__((naked, noinline)) static void normalize_##OUT(const int16_t *x __attribute__((unused)),                       \
                                                                 PF_TYPE_##OUT *y __attribute__((unused)),                       \
                                                                 const row_turns *row __attribute__((unused))) {                 \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " ldmia r2, {r2, r3, r10, r11, r12}\n"                                                                  \
                         "1: ldmia r0!, {r4-r7}\n"                                                                               \
                         " .irp word, r4, r5, r6, r7\n"                                                                          \
                         " smlabb r8, \\word, r3, r10\n"                                                                         \
                         " smlatb r9, \\word, r3, r10\n"                                                                         \
                         " smmlar r8, r8, r11, r12\n"                                                                            \
                         " smmlar r9, r9, r11, r12\n"                                                                            \
                         " ssat r8, #" BITS ", r8\n"                                                                             \
                         " ssat r9, #" BITS ", r9\n" STORE_TWO " .endr\n" STORE_EIGHT " subs r2, r2, #1\n"                       \
                         " bne 1b\n"                                                                                             \
                         " pop {r4-r11, pc}\n");                                                                                 \
    }
DEFINE_NORMALIZE(s8, "8", " strb r8, [r1], #1\n strb r9, [r1], #1\n", "")
DEFINE_NORMALIZE(s16, "16", " pkhbt \\word, r8, r9, lsl #16\n", " stmia r1!, {r4-r7}\n")

/* Elements of a row that go eight at a time; returns how many that were. */
#define DEFINE_EIGHTS(OUT)                                                                                                       \
    static inline int32_t eights_s16_##OUT(const pf_layer_norm *p, pf_factor f, const int16_t *x, PF_TYPE_##OUT *y,              \
                                           int32_t total) {                                                                      \
        const int32_t eights = p->width >> 3;                                                                                    \
        if (eights == 0 || f.shift != 32 || !is_aligned(x) || (sizeof *y == 2 && !is_aligned(y))) {                              \
            return 0;                                                                                                            \
        }                                                                                                                        \
        const row_turns row = {eights, p->width, -total, f.multiplier, p->zero_point};                                           \
        normalize_##OUT(x, y, &row);                                                                                             \
        return eights << 3;                                                                                                      \
    }                                                                                                                            \
    static inline int32_t eights_s8_##OUT(const pf_layer_norm *p, pf_factor f, const int8_t *x, PF_TYPE_##OUT *y,                \
                                          int32_t total) {                                                                       \
        (void)p, (void)f, (void)x, (void)y, (void)total;                                                                         \
        return 0;                                                                                                                \
    }
DEFINE_EIGHTS(s8)
DEFINE_EIGHTS(s16)

#define DEFINE_ROW(IN, OUT)                                                                                                      \
    static inline PF_TYPE_##OUT element_##IN##_##OUT(const line *l, PF_TYPE_##IN x, int32_t zero_point) {                        \
        int32_t result;                                                                                                          \
        __asm__(SSAT_##OUT : "=r"(result) : "r"(unit(l, x, zero_point)));                                                        \
        return (PF_TYPE_##OUT)result;                                                                                            \
    }                                                                                                                            \
    void pf_layer_norm_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                       \
        const int32_t width = p->width, zero_point = p->zero_point;                                                              \
        int32_t total;                                                                                                           \
        const pf_factor f = row_factor_##IN(p, x, &total);                                                                       \
        int32_t i = eights_##IN##_##OUT(p, f, x, y, total);                                                                      \
        if (i == width) {                                                                                                        \
            return;                                                                                                              \
        }                                                                                                                        \
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
