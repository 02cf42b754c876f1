/* What the files of the protocol share among themselves: little-endian access, frames, replies. */
#ifndef PF_WIRE_INTERNAL_H
#define PF_WIRE_INTERNAL_H

#include <stdint.h>

#include "picoformer/wire.h"

#define PF_CRC_BYTES    4u
#define PF_REPLY_HEADER 3u /* sequence, type, status */

/* Errors of pf_frame_receive; a good frame is its length, 0 or more. */
#define PF_FRAME_GONE     (-1)
#define PF_FRAME_BAD_CRC  (-2)
#define PF_FRAME_BROKEN   (-3)
#define PF_FRAME_TOO_LONG (-4)

uint32_t pf_crc32(uint32_t crc, const uint8_t *data, uint32_t bytes);

/* Receive one body into `body` (PF_FRAME_BYTES + PF_CRC_BYTES of room); its length without CRC, or an error. */
int32_t pf_frame_receive(uint8_t *body);

/* Send `body`, which has PF_CRC_BYTES of room behind `bytes`. */
void pf_frame_send(uint8_t *body, uint32_t bytes);

uint32_t pf_get16(const uint8_t *from);
uint32_t pf_get32(const uint8_t *from);
void pf_put16(uint8_t *to, uint32_t value);
void pf_put32(uint8_t *to, uint32_t value);

/* The one reply under construction. */
typedef struct pf_reply {
    uint8_t body[PF_FRAME_BYTES + PF_CRC_BYTES];
    uint32_t length;
} pf_reply;

void pf_reply_open(pf_reply *reply, uint8_t sequence, uint8_t type, uint8_t status);
uint32_t pf_reply_room(const pf_reply *reply);
void pf_reply_bytes(pf_reply *reply, const void *data, uint32_t bytes); /* caller checked the room */
void pf_reply_u8(pf_reply *reply, uint32_t value);
void pf_reply_u16(pf_reply *reply, uint32_t value);
void pf_reply_u32(pf_reply *reply, uint32_t value);
void pf_reply_send(pf_reply *reply);

/* Run the model and send the reply frames; the request was checked. Returns the status, PF_ACCEPTED when it replied. */
uint8_t pf_wire_run(pf_reply *reply, uint8_t sequence, uint32_t flags, uint32_t until);

/* The step that runs now, for a fault frame; PF_NO_STEP outside a run. */
extern volatile uint16_t pf_running_step;

#ifdef PF_TEXT
/* No text is there any more: a plain run has taken its place in the model's memory. */
void pf_text_forget(void);

/* The requests of text.c: they check all of a request, and add to a reply that was opened. Status as above. */
uint8_t pf_text_begin(pf_reply *reply, const uint8_t *request, uint32_t bytes);
uint8_t pf_text_feed(pf_reply *reply, const uint8_t *request, uint32_t bytes);
uint8_t pf_text_next(pf_reply *reply, uint32_t bytes);
uint8_t pf_text_beam(pf_reply *reply, const uint8_t *request, uint32_t bytes, void (*more)(pf_reply *reply));
#endif

#ifdef PF_FAULT_TESTS
/* Do the named wrong thing; returns PF_OUT_OF_RANGE when there is no such thing, else never. */
uint8_t pf_fault_test(uint32_t kind);
#endif

#endif
