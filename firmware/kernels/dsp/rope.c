/* Rotations by position for SMLSD and SMLADX: a pair of elements and a pair of cosine and sine are a word each. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* Clamp to 16 bits what lies 14 bits further left. */
static inline int32_t limited(int32_t value) {
    __asm__("ssat %0, #16, %1, asr #14" : "=r"(value) : "r"(value));
    return value;
}

static inline uint32_t load_word(const void *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
}

/* The pair (x0, x1) turned by (c, s): (x0 * c - x1 * s + 2^13, x0 * s + x1 * c + 2^13), both >> 14 and clamped. */
static inline uint32_t turned(uint32_t pair, uint32_t rotation) {
    int32_t first, second;
    uint32_t both;
    __asm__("smlsd %0, %1, %2, %3" : "=r"(first) : "r"(pair), "r"(rotation), "r"(0x2000));
    __asm__("smladx %0, %1, %2, %3" : "=r"(second) : "r"(pair), "r"(rotation), "r"(0x2000));
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(both) : "r"(limited(first)), "r"(limited(second)));
    return both;
}

/* Pairs that lie side by side. */
static void turn_words(const int16_t *x, int16_t *y, const int16_t *rotation, int32_t rotary) {
    for (int32_t i = 0; i < rotary; i += 2) {
        const uint32_t pair = turned(load_word(x + i), load_word(rotation + i));
        __builtin_memcpy(y + i, &pair, 4);
    }
}

/* Pairs whose elements lie `half` apart, two pairs at a time. */
static void turn_apart(const int16_t *x, int16_t *y, const int16_t *rotation, int32_t half) {
    int32_t i = 0;
    for (; i + 2 <= half; i += 2) {
        const uint32_t a = load_word(x + i), b = load_word(x + half + i);
        uint32_t first, second, low, high;
        __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(first) : "r"(a), "r"(b));
        __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(second) : "r"(b), "r"(a));
        first = turned(first, load_word(rotation + 2 * i));
        second = turned(second, load_word(rotation + 2 * i + 2));
        __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(low) : "r"(first), "r"(second));
        __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(high) : "r"(second), "r"(first));
        __builtin_memcpy(y + i, &low, 4);
        __builtin_memcpy(y + half + i, &high, 4);
    }
    if (i < half) {
        const uint32_t pair =
            turned((uint32_t)(uint16_t)x[i] | (uint32_t)(uint16_t)x[half + i] << 16, load_word(rotation + 2 * i));
        y[i] = (int16_t)pair;
        y[half + i] = (int16_t)(pair >> 16);
    }
}

int pf_rope_s16(const pf_rope *p, const int16_t *x, int16_t *y, int32_t position, int32_t rows) {
    const int32_t rotary = p->rotary, size = p->head_size;
    if (position < 0 || rows > p->positions || position > p->positions - rows) {
        return PF_ERROR_INDEX;
    }
    const int16_t *row = p->rotations + position * rotary;
    for (int32_t r = 0; r < rows; r++, row += rotary) {
        for (int32_t h = 0; h < p->heads; h++, x += size, y += size) {
            if (p->interleaved) {
                turn_words(x, y, row, rotary);
            } else {
                turn_apart(x, y, row, rotary / 2);
            }
            for (int32_t i = rotary; i < size; i++) {
                y[i] = x[i];
            }
        }
    }
    return PF_OK;
}
