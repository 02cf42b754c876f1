/* Building a reply frame field by field. */
#include <string.h>

#include "wire_internal.h"

void pf_reply_open(pf_reply *reply, uint8_t sequence, uint8_t type, uint8_t status) {
    reply->body[0] = sequence;
    reply->body[1] = (uint8_t)(type | PF_REPLY);
    reply->body[2] = status;
    reply->length = PF_REPLY_HEADER;
}

uint32_t pf_reply_room(const pf_reply *reply) {
    return PF_FRAME_BYTES - reply->length;
}

void pf_reply_bytes(pf_reply *reply, const void *data, uint32_t bytes) {
    memcpy(reply->body + reply->length, data, bytes);
    reply->length += bytes;
}

void pf_reply_u8(pf_reply *reply, uint32_t value) {
    reply->body[reply->length++] = (uint8_t)(value & 0xFFu);
}

void pf_reply_u16(pf_reply *reply, uint32_t value) {
    pf_put16(reply->body + reply->length, value);
    reply->length += 2u;
}

void pf_reply_u32(pf_reply *reply, uint32_t value) {
    pf_put32(reply->body + reply->length, value);
    reply->length += 4u;
}

void pf_reply_send(pf_reply *reply) {
    pf_frame_send(reply->body, reply->length);
}
