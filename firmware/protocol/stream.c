/* A reply in as many numbered frames as it takes: a host sees at once that it began, and at the next frame that one was lost. */
#include "wire_internal.h"

#define PART_OFFSET PF_REPLY_HEADER /* u16: the frame's number from 0 in 15 bits, and whether it is the last */
#define LAST_PART   0x8000u

static void next_part(pf_reply *reply) {
    const uint32_t part = pf_get16(reply->body + PART_OFFSET) + 1u;
    pf_reply_send(reply);
    reply->length = PF_REPLY_HEADER;
    pf_reply_u16(reply, part & (LAST_PART - 1u));
}

void pf_stream_begin(pf_reply *reply) {
    pf_reply_u16(reply, 0);
    next_part(reply);
}

void pf_stream_bytes(pf_reply *reply, const void *data, uint32_t bytes) {
    const uint8_t *from = data;
    while (bytes > 0) {
        uint32_t part = pf_reply_room(reply);
        if (part == 0) {
            next_part(reply);
            continue;
        }
        part = part < bytes ? part : bytes;
        pf_reply_bytes(reply, from, part);
        from += part;
        bytes -= part;
    }
}

void pf_stream_u16(pf_reply *reply, uint32_t value) {
    uint8_t bytes[2];
    pf_put16(bytes, value);
    pf_stream_bytes(reply, bytes, sizeof bytes);
}

void pf_stream_u32(pf_reply *reply, uint32_t value) {
    uint8_t bytes[4];
    pf_put32(bytes, value);
    pf_stream_bytes(reply, bytes, sizeof bytes);
}

void pf_stream_end(pf_reply *reply) {
    pf_put16(reply->body + PART_OFFSET, pf_get16(reply->body + PART_OFFSET) | LAST_PART);
}
