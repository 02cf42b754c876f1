/* Requests over the wire, whatever the firmware answers: frames, replies, at most once. Needs port.h's byte pipe, no model. */
#ifndef PICOFORMER_REQUESTS_H
#define PICOFORMER_REQUESTS_H

#include <stdint.h>

#include "picoformer/wire.h"

#define PF_CRC_BYTES    4u
#define PF_REPLY_HEADER 3u /* sequence, type, status */

/* A request that arrived whole. */
typedef struct pf_call {
    uint8_t sequence, type;
    const uint8_t *payload;
    uint32_t bytes; /* of the payload */
} pf_call;

/* The one reply under construction: `length` bytes of body so far, the header among them. */
typedef struct pf_reply {
    uint8_t body[PF_FRAME_BYTES + PF_CRC_BYTES];
    uint32_t length;
} pf_reply;

/* Act on a request. `reply` is open with the request's sequence and type and status PF_ACCEPTED: add the payload. It is sent when
 * PF_ACCEPTED comes back; any other status (enum pf_status, or the firmware's own from 0x10 on) refuses the request, and what was
 * added is dropped. A request that is refused has changed nothing. */
typedef uint8_t (*pf_answer)(const pf_call *call, pf_reply *reply);

/* Say "picoformer <name> ready" in a log frame, then answer requests until the host goes away. A request is carried out at most
 * once: one with the sequence number and the CRC of the last one is answered with the last reply frame again. */
void pf_serve_requests(const char *name, pf_answer answer);

/* Wait for one request and answer it; 0 when the host has gone. */
int pf_serve_request(pf_answer answer);

void pf_reply_open(pf_reply *reply, uint8_t sequence, uint8_t type, uint8_t status);
uint32_t pf_reply_room(const pf_reply *reply);
void pf_reply_bytes(pf_reply *reply, const void *data, uint32_t bytes); /* caller checked the room */
void pf_reply_u8(pf_reply *reply, uint32_t value);
void pf_reply_u16(pf_reply *reply, uint32_t value);
void pf_reply_u32(pf_reply *reply, uint32_t value);
void pf_reply_send(pf_reply *reply); /* for an answer of several frames: all but the last, which goes out by itself */

/* An answer of as many numbered frames as it takes: begin sends an empty one at once, which says that the request was accepted;
 * end marks the last one, which goes out when the answer function returns PF_ACCEPTED. Nothing but these adds to it. */
void pf_stream_begin(pf_reply *reply);
void pf_stream_bytes(pf_reply *reply, const void *data, uint32_t bytes);
void pf_stream_u16(pf_reply *reply, uint32_t value);
void pf_stream_u32(pf_reply *reply, uint32_t value);
void pf_stream_end(pf_reply *reply);

/* CRC-32 of `data` behind what `crc` is the CRC-32 of; 0 to begin with. */
uint32_t pf_crc32(uint32_t crc, const uint8_t *data, uint32_t bytes);

/* Little-endian numbers. */
uint32_t pf_get16(const uint8_t *from);
uint32_t pf_get32(const uint8_t *from);
void pf_put16(uint8_t *to, uint32_t value);
void pf_put32(uint8_t *to, uint32_t value);

#endif
