/* What the files of the protocol share among themselves: frames, and the requests that run the model. */
#ifndef PF_WIRE_INTERNAL_H
#define PF_WIRE_INTERNAL_H

#include <stdint.h>

#include "picoformer/requests.h"

/* Errors of pf_frame_receive; a good frame is its length, 0 or more. */
#define PF_FRAME_GONE     (-1)
#define PF_FRAME_BAD_CRC  (-2)
#define PF_FRAME_BROKEN   (-3)
#define PF_FRAME_TOO_LONG (-4)

/* Receive one body into `body` (PF_FRAME_BYTES + PF_CRC_BYTES of room); its length without CRC, which stands behind it, or an
 * error. */
int32_t pf_frame_receive(uint8_t *body);

/* Send `body`, which has PF_CRC_BYTES of room behind `bytes`. */
void pf_frame_send(uint8_t *body, uint32_t bytes);

/* Run the model into the stream `reply`; the request was checked. Returns the status. */
uint8_t pf_wire_run(pf_reply *reply, uint32_t flags, uint32_t until);

/* The step that runs now, for a fault frame; PF_NO_STEP outside a run. */
extern volatile uint16_t pf_running_step;

#ifdef PF_TEXT
/* No text is there any more: a plain run has taken its place in the model's memory. */
void pf_text_forget(void);

/* The requests of text.c: they check all of a request, and answer it. Status as above. */
uint8_t pf_text_begin(pf_reply *reply, const uint8_t *request, uint32_t bytes);
uint8_t pf_text_feed(pf_reply *reply, const uint8_t *request, uint32_t bytes);
uint8_t pf_text_next(pf_reply *reply, const uint8_t *request, uint32_t bytes);
uint8_t pf_text_beam(pf_reply *reply, const uint8_t *request, uint32_t bytes);
#endif

#ifdef PF_FAULT_TESTS
/* Do the named wrong thing; returns PF_OUT_OF_RANGE when there is no such thing, else never. */
uint8_t pf_fault_test(uint32_t kind);
#endif

#endif
