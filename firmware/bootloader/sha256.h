/* SHA-256 (FIPS 180-4), small rather than fast. */
#ifndef PF_BOOT_SHA256_H
#define PF_BOOT_SHA256_H

#include <stdint.h>

#define PF_SHA256_BYTES 32u
#define PF_SHA256_BLOCK 64u

typedef struct pf_sha256 {
    uint32_t state[8];
    uint32_t bytes; /* so far; an image is shorter than 2^29 */
    uint8_t block[PF_SHA256_BLOCK];
} pf_sha256;

void pf_sha256_begin(pf_sha256 *hash);
void pf_sha256_add(pf_sha256 *hash, const uint8_t *data, uint32_t bytes);
void pf_sha256_end(pf_sha256 *hash, uint8_t digest[PF_SHA256_BYTES]);

#endif
