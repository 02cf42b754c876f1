/* SHA-256 as FIPS 180-4 states it, section 6.2; the message schedule is kept as its last 16 words. */
#include "sha256.h"

#include <string.h>

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes (section 4.2.2). */
static const uint32_t constants[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u,
};

static uint32_t rotate(uint32_t value, uint32_t by) {
    return value >> by | value << (32u - by);
}

/* One round. The eight working variables change places with every round: here their names do, eight rounds in a row. */
#define ROUND(a, b, c, d, e, f, g, h, t)                                                                                         \
    do {                                                                                                                         \
        h += (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + constants[t] + w[(t) % 16u];                 \
        d += h;                                                                                                                  \
        h += (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));                                         \
    } while (0)

static void take_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[16];
    for (uint32_t i = 0; i < 16u; i++, block += 4)
        w[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (uint32_t t = 0; t < 64u; t += 8u) {
        for (uint32_t i = t; t >= 16u && i < t + 8u; i++) {
            const uint32_t before = w[(i + 1u) % 16u], behind = w[(i + 14u) % 16u];
            w[i % 16u] += (rotate(before, 7) ^ rotate(before, 18) ^ before >> 3) + w[(i + 9u) % 16u] +
                          (rotate(behind, 17) ^ rotate(behind, 19) ^ behind >> 10);
        }
        ROUND(a, b, c, d, e, f, g, h, t);
        ROUND(h, a, b, c, d, e, f, g, t + 1u);
        ROUND(g, h, a, b, c, d, e, f, t + 2u);
        ROUND(f, g, h, a, b, c, d, e, t + 3u);
        ROUND(e, f, g, h, a, b, c, d, t + 4u);
        ROUND(d, e, f, g, h, a, b, c, t + 5u);
        ROUND(c, d, e, f, g, h, a, b, t + 6u);
        ROUND(b, c, d, e, f, g, h, a, t + 7u);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void pf_sha256_begin(pf_sha256 *hash) {
    static const uint32_t initial[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                        0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    for (uint32_t i = 0; i < 8u; i++) hash->state[i] = initial[i];
    hash->bytes = 0;
}

void pf_sha256_add(pf_sha256 *hash, const uint8_t *data, uint32_t bytes) {
    while (bytes > 0) {
        const uint32_t filled = hash->bytes % PF_SHA256_BLOCK;
        const uint32_t part = bytes < PF_SHA256_BLOCK - filled ? bytes : PF_SHA256_BLOCK - filled;
        if (part == PF_SHA256_BLOCK)
            take_block(hash->state, data);
        else
            memcpy(hash->block + filled, data, part);
        if (part < PF_SHA256_BLOCK && filled + part == PF_SHA256_BLOCK) take_block(hash->state, hash->block);
        hash->bytes += part;
        data += part;
        bytes -= part;
    }
}

void pf_sha256_end(pf_sha256 *hash, uint8_t digest[PF_SHA256_BYTES]) {
    const uint32_t high = hash->bytes >> 29, low = hash->bytes << 3; /* the message's bits, big-endian */
    uint8_t bits[8] = {0};
    for (uint32_t i = 0; i < 4u; i++) {
        bits[i] = (uint8_t)(high >> (24u - 8u * i) & 0xFFu);
        bits[4u + i] = (uint8_t)(low >> (24u - 8u * i) & 0xFFu);
    }
    const uint8_t one = 0x80u, zero = 0;
    pf_sha256_add(hash, &one, 1);
    while (hash->bytes % PF_SHA256_BLOCK != PF_SHA256_BLOCK - sizeof bits) pf_sha256_add(hash, &zero, 1);
    pf_sha256_add(hash, bits, sizeof bits);
    for (uint32_t i = 0; i < PF_SHA256_BYTES; i++) digest[i] = (uint8_t)(hash->state[i / 4u] >> (24u - 8u * (i % 4u)) & 0xFFu);
}
