/* Sums of two lines of elements, each on its own grid: SMLAL where they are rescaled, QADD16 where b counts in whole steps. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* (start + a * multiplier_a + b * multiplier_b) >> shift, its 32 low bits. */
static inline int32_t sum_of(const pf_add *p, int64_t start, int32_t a, int32_t b) {
    uint32_t low = (uint32_t)start, high = (uint32_t)(start >> 32);
    __asm__("smlal %0, %1, %2, %3" : "+r"(low), "+r"(high) : "r"(a), "r"(p->multiplier_a));
    __asm__("smlal %0, %1, %2, %3" : "+r"(low), "+r"(high) : "r"(b), "r"(p->multiplier_b));
    __asm__("lsr %0, %0, %1" : "+r"(low) : "r"(p->shift)); /* a register shifts by 32, too */
    __asm__("lsl %0, %0, %1" : "+r"(high) : "r"(32 - p->shift));
    return (int32_t)(high | low);
}

/* Whether no sum of two int16 passes 32 bits. */
static int32_t is_narrow(const pf_add *p) {
    const int64_t reach = ((int64_t)p->multiplier_a + p->multiplier_b) << 15;
    const int64_t limit = (int64_t)1 << (p->shift + 29);
    return p->offset > -limit && p->offset < limit && reach < limit;
}

#define SSAT_s8  "ssat %0, #8, %1"
#define SSAT_s16 "ssat %0, #16, %1"
#define DEFINE_ADD(A, B, OUT)                                                                                                    \
    void pf_add_span_##A##_##B##_##OUT(const pf_add *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const pf_add own = *p;                                                                                                   \
        const int64_t start = own.offset + ((int64_t)1 << (own.shift - 1));                                                      \
        const int32_t narrow = is_narrow(&own);                                                                                  \
        int32_t i = whole_##A##_##B##_##OUT(&own, a, b, b_step, y, count);                                                       \
        for (b += i * b_step; i < count; i++, b += b_step) {                                                                     \
            int32_t sum;                                                                                                         \
            if (narrow) {                                                                                                        \
                sum = sum_of(&own, start, a[i], *b);                                                                             \
                __asm__(SSAT_##OUT : "=r"(sum) : "r"(sum));                                                                      \
            } else {                                                                                                             \
                const int64_t exact = (start + (int64_t)a[i] * own.multiplier_a + (int64_t)*b * own.multiplier_b) >> own.shift;  \
                sum = PF_SATURATE(OUT, exact);                                                                                   \
            }                                                                                                                    \
            y[i] = (PF_TYPE_##OUT)sum;                                                                                           \
        }                                                                                                                        \
    }

#define DEFINE_PLAIN_ADD(A, B, OUT)                                                                                              \
    static inline int32_t whole_##A##_##B##_##OUT(const pf_add *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,   \
                                                  PF_TYPE_##OUT *y, int32_t count) {                                             \
        (void)p, (void)a, (void)b, (void)b_step, (void)y, (void)count;                                                           \
        return 0;                                                                                                                \
    }                                                                                                                            \
    DEFINE_ADD(A, B, OUT)

static inline uint32_t load_word(const void *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
}

/* y[0..1] = saturate(a[0..1] + b * factor, c * factor): low halves of b and c, or TOP of them. */
#define ADD_TWO(PRODUCT, A, B, C, Y)                                                                                             \
    {                                                                                                                            \
        uint32_t first, second, sum = load_word(A);                                                                              \
        __asm__(PRODUCT " %0, %1, %2" : "=r"(first) : "r"(B), "r"(factor));                                                      \
        __asm__(PRODUCT " %0, %1, %2" : "=r"(second) : "r"(C), "r"(factor));                                                     \
        __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(first) : "r"(first), "r"(second));                                            \
        __asm__("qadd16 %0, %1, %2" : "=r"(sum) : "r"(sum), "r"(first));                                                         \
        __builtin_memcpy(Y, &sum, 4);                                                                                            \
    }

/* y = saturate(a + b * factor), four at a time: where a is on the grid of y and b on a whole multiple of it, of eight bits.
 * Returns how many elements that were. */
static int32_t whole_s16_s8_s16(const pf_add *p, const int16_t *a, const int8_t *b, int32_t b_step, int16_t *y, int32_t count) {
    const int32_t factor = (int32_t)((uint32_t)p->multiplier_b >> p->shift % 32);
    if (p->shift > 30 || p->multiplier_a != (int32_t)1 << p->shift || p->offset != 0 || b_step != 1 || factor > 255 ||
        (uint32_t)p->multiplier_b != (uint32_t)factor << p->shift) {
        return 0;
    }
    int32_t i = 0;
    for (; i + 4 <= count; i += 4, a += 4, b += 4, y += 4) {
        uint32_t even, odd;
        const uint32_t word = load_word(b);
        __asm__("sxtb16 %0, %1" : "=r"(even) : "r"(word));
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(word));
        ADD_TWO("smulbb", a, even, odd, y)
        ADD_TWO("smultb", a + 2, even, odd, y + 2)
    }
    return i;
}

DEFINE_PLAIN_ADD(s8, s8, s8)
DEFINE_PLAIN_ADD(s8, s8, s16)
DEFINE_PLAIN_ADD(s8, s16, s8)
DEFINE_PLAIN_ADD(s8, s16, s16)
DEFINE_PLAIN_ADD(s16, s8, s8)
DEFINE_ADD(s16, s8, s16)
DEFINE_PLAIN_ADD(s16, s16, s8)
DEFINE_PLAIN_ADD(s16, s16, s16)
