/* All rounding of the integer operators, in 32- and 64-bit words; SPEC.md states the same in words. */
#ifndef PICOFORMER_FIXEDPOINT_H
#define PICOFORMER_FIXEDPOINT_H

#include <stdint.h>

/* Two things C leaves to the compiler and every compiler used here defines alike: >> of a negative number is
 * arithmetic, and a conversion to a narrower signed type keeps the low bits. */
typedef char pf_right_shift_is_arithmetic[((int64_t)-3 >> 1) == -2 ? 1 : -1];
typedef char pf_conversion_keeps_low_bits[(int32_t)0x80000000u == INT32_MIN ? 1 : -1];

/* The element types by the short names that end the functions' names. */
#define PF_TYPE_s8  int8_t
#define PF_TYPE_s16 int16_t
#define PF_MIN_s8   (-128)
#define PF_MAX_s8   127
#define PF_MIN_s16  (-32768)
#define PF_MAX_s16  32767

/* Clamp to the range of a type and convert to it; any integer in. */
#define PF_SATURATE(NAME, VALUE)                                                                                                 \
    ((PF_TYPE_##NAME)((VALUE) < PF_MIN_##NAME ? PF_MIN_##NAME : (VALUE) > PF_MAX_##NAME ? PF_MAX_##NAME : (VALUE)))

/* Softmax numerators: entries of their table. */
#define PF_EXP_ENTRIES 1024u

/* (a * b) >> 32 and (a * b + 2^31) >> 32 for b >= 0, exact. A core whose products have 32 bits takes halves: with a = 2^16 ah +
 * al, b = 2^16 bh + bl it is a * b = 2^32 ah bh + 2^16 (ah bl + al bh) + al bl. */
static inline int32_t pf_high_plus(int32_t a, int32_t b, uint32_t half) {
#if defined(__ARM_ARCH_6M__)
    const uint32_t al = (uint32_t)a & 0xFFFFu, bl = (uint32_t)b & 0xFFFFu, bh = (uint32_t)b >> 16;
    const int32_t ah = a >> 16;
    const int32_t middle = ah * (int32_t)bl + (int32_t)(al * bl >> 16);
    const uint32_t rest = al * bh + ((uint32_t)middle & 0xFFFFu) + (half >> 16);
    return ah * (int32_t)bh + (middle >> 16) + (int32_t)(rest >> 16);
#else
    return (int32_t)(((int64_t)a * b + half) >> 32);
#endif
}

static inline int32_t pf_high(int32_t a, int32_t b) {
    return pf_high_plus(a, b, 0u);
}

static inline int32_t pf_rounded_high(int32_t a, int32_t b) {
    return pf_high_plus(a, b, 0x80000000u);
}

/* (value + 2^(shift-1)) >> shift, shift 1..62; the sum must fit. */
static inline int64_t pf_rounding_shift(int64_t value, int32_t shift) {
    return (value + ((int64_t)1 << (shift - 1))) >> shift;
}

/* a * b for a of 16 bits and b >= 0. */
static inline int64_t pf_narrow_product(int32_t a, int32_t b) {
#if defined(__ARM_ARCH_6M__)
    const int64_t high = a * (b >> 16);
    return (int64_t)((uint64_t)high << 16) + a * (b & 0xFFFF);
#else
    return (int64_t)a * b;
#endif
}

/* value >> shift limited to -2^30..2^30, shift 1..32: in 32 bits, for cores without a long shift. */
static inline int32_t pf_shift_clamped(int64_t value, int32_t shift) {
    const int32_t high = (int32_t)(value >> 32), beyond = high >> (shift - 1);
    if (shift == 32) {
        return high;
    }
    if (beyond != 0 && beyond != -1) {
        return high < 0 ? -0x40000000 : 0x40000000;
    }
    return (int32_t)(((uint32_t)high << (32 - shift)) | ((uint32_t)value >> shift));
}

/* (value + 2^(drop-1)) >> drop, and value itself where drop is 0. */
static inline int32_t pf_narrow(int32_t value, int32_t drop) {
    return (value + ((int32_t)1 << drop >> 1)) >> drop;
}

/* (acc * multiplier + 2^(shift-1)) >> shift clamped to 17 bits, so that a zero point may be added; shift 1..32. With
 * shift 32 the result is the rounded high word and below 2^30 in magnitude, so only the final clamp is needed. */
static inline int32_t pf_rescale(int32_t acc, int32_t multiplier, int32_t shift) {
    if (shift == 32) {
        return pf_rounded_high(acc, multiplier);
    }
    const int64_t scaled = pf_rounding_shift((int64_t)acc * multiplier, shift);
    return scaled < -65536 ? -65536 : scaled > 65535 ? 65535 : (int32_t)scaled;
}

/* pf_rescale for shift 1..62; one of 33 or more is applied to the high word of the product. */
static inline int32_t pf_rescale_far(int32_t acc, int32_t multiplier, int32_t shift) {
    if (shift <= 32) {
        return pf_rescale(acc, multiplier, shift);
    }
    return (pf_high(acc, multiplier) + ((int32_t)1 << (shift - 33))) >> (shift - 32);
}

/* pf_rescale for a sum of up to 48 bits and a shift of up to 62, whose product is taken in two halves: with acc = high * 2^16 +
 * low, floor((acc * m + h) / 2^s) = floor((high * m + floor((low * m + h) / 2^16)) / 2^(s-16)) for s > 16. A shift of 16 or less
 * goes with sums of 32 bits only. */
static inline int32_t pf_rescale_wide(int64_t acc, int32_t multiplier, int32_t shift) {
    int64_t scaled;
    if (shift > 16) {
        const int64_t low = (acc & 0xFFFF) * multiplier + ((int64_t)1 << (shift - 1));
        scaled = ((acc >> 16) * multiplier + (low >> 16)) >> (shift - 16);
    } else {
        scaled = pf_rounding_shift(acc * multiplier, shift);
    }
    return scaled < -65536 ? -65536 : scaled > 65535 ? 65535 : (int32_t)scaled;
}

/* (a * b + half) >> 32; half is 0, or b below 2^31 and half 2^31. */
static inline uint32_t pf_high_word_plus(uint32_t a, uint32_t b, uint32_t half) {
#if defined(__ARM_ARCH_6M__)
    const uint32_t al = a & 0xFFFFu, ah = a >> 16, bl = b & 0xFFFFu, bh = b >> 16;
    const uint32_t middle = ah * bl + (al * bl >> 16);
    const uint32_t rest = al * bh + (middle & 0xFFFFu) + (half >> 16);
    return ah * bh + (middle >> 16) + (rest >> 16);
#else
    return (uint32_t)(((uint64_t)a * b + half) >> 32);
#endif
}

static inline uint32_t pf_high_word(uint32_t a, uint32_t b) {
    return pf_high_word_plus(a, b, 0u);
}

/* min(2^31, (y * error) >> shift): one step of either iteration below; in words, since 64 bits are costly to shift. */
static inline uint32_t pf_newton(uint32_t y, uint32_t error, int32_t shift) {
    const uint64_t product = (uint64_t)y * error;
    const uint32_t high = (uint32_t)(product >> 32), low = (uint32_t)product;
    return high >> (shift - 1) != 0 ? 0x80000000u : high << (32 - shift) | low >> shift;
}

/* y with 1/value = y * 2^(lead - 62), value > 0. */
static inline uint32_t pf_reciprocal(uint32_t value, int32_t *lead) {
    *lead = __builtin_clz(value);
    const uint32_t f = value << *lead;
    uint32_t y = 0xB4B4B4B5u - pf_high_word(f, 0x78787879u);
    for (int32_t i = 0; i < 3; i++) {
        y = pf_newton(y, 0x80000000u - pf_high_word(f, y), 30);
    }
    return y;
}

/* y with 1/sqrt(value) = y * 2^(half_lead - 62), value > 0. */
static inline uint32_t pf_reciprocal_sqrt(uint64_t value, int32_t *half_lead) {
    const uint32_t high = (uint32_t)(value >> 32);
    const int32_t lead = high != 0 ? __builtin_clz(high) : 32 + __builtin_clz((uint32_t)value);
    *half_lead = lead >> 1;
    const uint32_t f = (uint32_t)((value << (*half_lead * 2)) >> 32);
    uint32_t y = 0x8C000000u - pf_high_word(f, 0x4E000000u);
    for (int32_t i = 0; i < 4; i++) {
        y = pf_newton(y, 0x30000000u - pf_high_word(f, pf_high_word(y, y)), 29);
    }
    return y;
}

/* A factor computed on the device: multiplier * 2^-shift. */
typedef struct pf_factor {
    int32_t multiplier;
    int32_t shift;
} pf_factor;

/* mantissa * 2^-exponent / value, value > 0. */
static inline pf_factor pf_scaled_reciprocal(int32_t mantissa, int32_t exponent, uint32_t value) {
    int32_t lead;
    const uint32_t y = pf_reciprocal(value, &lead);
    const uint64_t product = ((uint64_t)(uint32_t)mantissa * y) >> 31;
    pf_factor factor = {product > INT32_MAX ? INT32_MAX : (int32_t)product, exponent + 31 - lead};
    return factor;
}

/* table[min(1023, (distance * multiplier + 2^(shift-1)) >> shift)]; distance = row maximum - score. */
static inline uint32_t pf_numerator(const uint16_t *table, uint32_t distance, uint32_t multiplier, int32_t shift) {
    if (shift == 32 && distance < 0x10000u) { /* a product of 32 bits at a time, for cores that have no more */
        const uint32_t high = distance * (multiplier >> 16) + (distance * (multiplier & 0xFFFFu) >> 16);
        const uint32_t index = (high + 0x8000u) >> 16;
        return table[index < PF_EXP_ENTRIES ? index : PF_EXP_ENTRIES - 1u];
    }
    if (shift == 32) {
        const uint32_t index = pf_high_word_plus(distance, multiplier, 0x80000000u);
        return table[index < PF_EXP_ENTRIES ? index : PF_EXP_ENTRIES - 1u];
    }
    const uint64_t product = (uint64_t)distance * multiplier;
    const uint64_t index = (product + ((uint64_t)1 << (shift - 1))) >> shift;
    return table[index < PF_EXP_ENTRIES ? (uint32_t)index : PF_EXP_ENTRIES - 1u];
}

#endif
