/* Logarithms and powers of two, bit by bit, and what a length penalty makes of a score. */
#include "picoformer/generate.h"

#define LOG_BITS 28
#define LN2      744261118 /* round(ln 2 * 2^30) */

/* round(2^32 * 2^(-2^-k)), k = 1 .. 28 */
static const uint32_t roots[LOG_BITS] = {
    0xB504F334u, 0xD744FCCBu, 0xEAC0C6E8u, 0xF5257D15u, 0xFA83B2DBu, 0xFD3E0C0Du, 0xFE9E115Cu,
    0xFF4ECB59u, 0xFFA75652u, 0xFFD3A752u, 0xFFE9D2B3u, 0xFFF4E91Cu, 0xFFFA747Fu, 0xFFFD3A3Bu,
    0xFFFE9D1Du, 0xFFFF4E8Eu, 0xFFFFA747u, 0xFFFFD3A3u, 0xFFFFE9D2u, 0xFFFFF4E9u, 0xFFFFFA74u,
    0xFFFFFD3Au, 0xFFFFFE9Du, 0xFFFFFF4Fu, 0xFFFFFFA7u, 0xFFFFFFD4u, 0xFFFFFFEAu, 0xFFFFFFF5u,
};

int64_t pf_log2(uint64_t value) {
    int64_t result = 63;
    while (value >> 63 == 0) {
        value <<= 1;
        result--;
    }
    uint64_t mantissa = value >> 32;
    for (int32_t i = 0; i < LOG_BITS; i++) {
        const uint64_t square = mantissa * mantissa;
        const uint32_t bit = (uint32_t)(square >> 63);
        mantissa = square >> (31u + bit);
        result = result * 2 + bit;
    }
    return result;
}

uint32_t pf_power2(uint32_t fraction) {
    uint32_t result = 0x80000000u;
    for (int32_t k = 0; k < LOG_BITS; k++) {
        if ((fraction >> (LOG_BITS - 1 - k) & 1u) != 0) {
            result = (uint32_t)(((uint64_t)result * roots[k] + 0x80000000u) >> 32);
        }
    }
    return result;
}

int64_t pf_log_of_sum(uint64_t total) {
    const int64_t octaves = pf_log2(total) - ((int64_t)31 << LOG_BITS);
    return octaves <= 0 ? 0 : (octaves * LN2 + ((int64_t)1 << 33)) >> 34;
}

/* A score of 46 bits is taken in two halves, since its product with 2^31 has 78: the same number. */
int64_t pf_normalize(int64_t score, int32_t length, int32_t length_penalty) {
    const int64_t exponent = (length_penalty * pf_log2((uint64_t)length) + ((int64_t)1 << 23)) >> 24;
    const int64_t octaves = exponent >> LOG_BITS;
    const int64_t factor = pf_power2((uint32_t)(exponent & (((int64_t)1 << LOG_BITS) - 1)));
    const int64_t low = ((score & 0xFFFF) * factor + ((int64_t)1 << 30)) >> 16;
    const int64_t value = ((score >> 16) * factor + low) >> 15, lowest = -((int64_t)1 << 62);
    if (octaves > 0) {
        const int64_t n = octaves < 62 ? octaves : 62;
        return (value + ((int64_t)1 << (n - 1))) >> n;
    }
    const int64_t n = -octaves < 62 ? -octaves : 62;
    return value < lowest >> n ? lowest : value * ((int64_t)1 << n);
}
