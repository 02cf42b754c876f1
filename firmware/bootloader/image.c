/* Deciding whether what lies in the slot may be started. */
#include "image.h"

#include <string.h>

#include "sha256.h"

int pf_bytes_equal(const void *first, const void *second, uint32_t bytes) {
    const uint8_t *a = first, *b = second;
    while (bytes > 0 && *a == *b) a++, b++, bytes--;
    return bytes == 0;
}

uint8_t pf_image_check_header(const pf_slot *slot, const pf_image_header *header) {
    if (header->magic != PF_IMAGE_MAGIC) return PF_IMAGE_NONE;
    if (header->header_version != PF_IMAGE_HEADER_VERSION || header->header_bytes != PF_IMAGE_HEADER_BYTES ||
        header->target[PF_IMAGE_TARGET_BYTES - 1u] != 0)
        return PF_IMAGE_BAD_HEADER;
    if (!pf_bytes_equal(header->target, slot->target, (uint32_t)strlen(slot->target) + 1u)) return PF_IMAGE_FOREIGN;
    const uint32_t length = header->length, room = slot->bytes - slot->page_bytes;
    if (length < 8u || length % 4u != 0 || length > room) return PF_IMAGE_OUTSIDE;
    if (header->load != slot->origin + slot->page_bytes) return PF_IMAGE_OUTSIDE;
    if (!(header->entry & 1u) || header->entry - header->load >= length) return PF_IMAGE_OUTSIDE;
    return PF_IMAGE_VALID;
}

static uint32_t word(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

uint8_t pf_image_verify(const pf_slot *slot, const pf_image_header *header) {
    const uint8_t status = pf_image_check_header(slot, header);
    if (status != PF_IMAGE_VALID) return status;
    const uint8_t *image = slot->memory + slot->page_bytes;
    uint8_t digest[PF_SHA256_BYTES];
    pf_sha256 hash;
    pf_sha256_begin(&hash);
    pf_sha256_add(&hash, (const uint8_t *)header, PF_IMAGE_HASHED_BYTES);
    pf_sha256_add(&hash, image, header->length);
    pf_sha256_end(&hash, digest);
    if (!pf_bytes_equal(digest, header->sha256, sizeof digest)) return PF_IMAGE_BAD_HASH;
    const uint32_t stack = word(image), reset = word(image + 4);
    if (stack % 8u != 0 || stack - slot->ram_origin > slot->ram_bytes || reset != header->entry) return PF_IMAGE_BAD_VECTORS;
    return PF_IMAGE_VALID;
}
