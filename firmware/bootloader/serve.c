/* The requests of a host that replaces the image: check every field, act, reply. SPEC.md states every byte. */
#include <string.h>

#include "boot.h"
#include "flash.h"

static pf_image_header announced; /* by the last begin: what the slot is going to hold */
static int is_receiving;          /* between begin and finish: the slot has no header */
static uint32_t next_offset;      /* where the next piece of the page that was begun belongs */
static uint8_t state;             /* of the slot, as last looked at */
static int is_state_known;
static int is_start_asked;

static const pf_image_header *stored_header(void) {
    return (const pf_image_header *)(const void *)pf_boot_slot.memory;
}

static uint8_t state_now(void) {
    if (!is_state_known) state = pf_image_verify(&pf_boot_slot, stored_header());
    is_state_known = 1;
    return state;
}

int pf_boot_is_start_asked(void) {
    const int asked = is_start_asked;
    is_start_asked = 0;
    return asked;
}

static uint8_t identify(const pf_call *call, pf_reply *reply) {
    if (call->bytes != 0) return PF_BAD_LENGTH;
    pf_reply_u16(reply, PF_BOOT_VERSION);
    pf_reply_u16(reply, PF_FRAME_BYTES);
    pf_reply_u32(reply, pf_boot_slot.origin);
    pf_reply_u32(reply, pf_boot_slot.bytes);
    pf_reply_u32(reply, pf_boot_slot.page_bytes);
    pf_reply_u16(reply, PF_BOOT_WINDOW_MS);
    pf_reply_u8(reply, state_now());
    pf_reply_u8(reply, (uint32_t)is_receiving);
    pf_reply_bytes(reply, stored_header(), PF_IMAGE_HEADER_BYTES);
    pf_reply_bytes(reply, pf_boot_slot.target, (uint32_t)strlen(pf_boot_slot.target));
    return PF_ACCEPTED;
}

static uint8_t pages(const pf_call *call, pf_reply *reply) {
    if (call->bytes != 6u) return PF_BAD_LENGTH;
    const uint32_t first = pf_get32(call->payload), count = pf_get16(call->payload + 4);
    const uint32_t all = pf_boot_slot.bytes / pf_boot_slot.page_bytes;
    if (first > all || count > all - first) return PF_OUT_OF_RANGE;
    if (4u * count > pf_reply_room(reply)) return PF_TOO_LONG;
    for (uint32_t i = 0; i < count; i++)
        pf_reply_u32(reply, pf_crc32(0, pf_boot_slot.memory + (first + i) * pf_boot_slot.page_bytes, pf_boot_slot.page_bytes));
    return PF_ACCEPTED;
}

/* Erase the header before anything else: from here on, until finish, nothing in the slot can be taken for an image. */
static uint8_t begin(const pf_call *call) {
    if (call->bytes != PF_IMAGE_HEADER_BYTES) return PF_BAD_LENGTH;
    pf_image_header header;
    memcpy(&header, call->payload, sizeof header);
    const uint8_t status = pf_image_check_header(&pf_boot_slot, &header);
    if (status != PF_IMAGE_VALID) return status;
    announced = header;
    is_receiving = 0;
    pf_flash_erase(pf_boot_slot.origin);
    is_state_known = 0;
    if (stored_header()->magic == PF_IMAGE_MAGIC) return PF_BOOT_NOT_WRITTEN;
    is_receiving = 1;
    next_offset = 0;
    return PF_ACCEPTED;
}

/* A piece of a page. The first piece erases the page, so every word is written once after it was erased. */
static uint8_t write(const pf_call *call) {
    if (call->bytes <= 4u || call->bytes % 4u != 0) return PF_BAD_LENGTH;
    const uint32_t offset = pf_get32(call->payload), bytes = call->bytes - 4u, page = pf_boot_slot.page_bytes;
    const uint32_t within = offset % page;
    if (!is_receiving) return PF_STALE;
    if (offset % 4u != 0 || offset < page || offset >= pf_boot_slot.bytes || bytes > page - within) return PF_OUT_OF_RANGE;
    if (within == 0)
        pf_flash_erase(pf_boot_slot.origin + offset);
    else if (offset != next_offset)
        return PF_STALE;
    pf_flash_write(pf_boot_slot.origin + offset, call->payload + 4, bytes);
    next_offset = offset + bytes;
    return pf_bytes_equal(pf_boot_slot.memory + offset, call->payload + 4, bytes) ? PF_ACCEPTED : PF_BOOT_NOT_WRITTEN;
}

/* The header is written last, and only onto an image that is whole; of the header the magic word, which makes it one. */
static uint8_t finish(const pf_call *call) {
    if (call->bytes != 0) return PF_BAD_LENGTH;
    if (!is_receiving) return PF_STALE;
    const uint8_t status = pf_image_verify(&pf_boot_slot, &announced);
    if (status != PF_IMAGE_VALID) return status;
    is_receiving = 0;
    is_state_known = 0;
    const uint8_t *header = (const uint8_t *)&announced;
    const uint32_t magic = sizeof announced.magic;
    pf_flash_write(pf_boot_slot.origin + magic, header + magic, PF_IMAGE_HEADER_BYTES - magic);
    pf_flash_write(pf_boot_slot.origin, header, magic);
    return pf_bytes_equal(stored_header(), &announced, sizeof announced) ? PF_ACCEPTED : PF_BOOT_NOT_WRITTEN;
}

static uint8_t start(const pf_call *call) {
    if (call->bytes != 0) return PF_BAD_LENGTH;
    is_start_asked = state_now() == PF_IMAGE_VALID;
    return state_now();
}

/* Somebody wants the firmware, not the bootloader. */
static uint8_t hello(void) {
    is_start_asked = state_now() == PF_IMAGE_VALID;
    return is_start_asked ? PF_BOOT_STARTING : state_now();
}

static uint8_t act(const pf_call *call, pf_reply *reply) {
    switch (call->type) {
    case PF_BOOT_IDENTIFY:
        return identify(call, reply);
    case PF_BOOT_PAGES:
        return pages(call, reply);
    case PF_BOOT_BEGIN:
        return begin(call);
    case PF_BOOT_WRITE:
        return write(call);
    case PF_BOOT_FINISH:
        return finish(call);
    case PF_BOOT_START:
        return start(call);
    case PF_BOOT_ENTER: /* it is here already */
        return call->bytes == 0 ? PF_ACCEPTED : PF_BAD_LENGTH;
    default:
        return PF_UNKNOWN_TYPE;
    }
}

uint8_t pf_boot_answer(const pf_call *call, pf_reply *reply) {
    if (call->type == PF_HELLO) return hello();
    const uint8_t status = act(call, reply);
    if (status != PF_UNKNOWN_TYPE) pf_clock_set(PF_BOOT_STAY_MS); /* somebody is here who knows the bootloader */
    return status;
}
