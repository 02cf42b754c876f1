/* One request after another, each carried out at most once; what they mean is the answer function's. */
#include <string.h>

#include "picoformer/port.h"
#include "wire_internal.h"

static uint8_t request[PF_FRAME_BYTES + PF_CRC_BYTES];
static pf_reply reply; /* what was sent last, until a request is carried out */
static uint32_t answered_crc;
static uint8_t answered_sequence; /* 0: no request was answered; hosts begin with 1 */

/* No field of a bad frame can be trusted: sequence and type 0. The last reply stays, its request may come again. */
static void refuse_frame(int32_t error) {
    uint8_t body[PF_REPLY_HEADER + PF_CRC_BYTES] = {0, PF_REPLY};
    body[2] = error == PF_FRAME_BAD_CRC ? PF_BAD_CRC : error == PF_FRAME_TOO_LONG ? PF_TOO_LONG : PF_BAD_FRAME;
    pf_frame_send(body, PF_REPLY_HEADER);
}

int pf_serve_request(pf_answer answer) {
    const int32_t length = pf_frame_receive(request);
    if (length == PF_FRAME_GONE) return 0;
    if (length < 2) {
        refuse_frame(length);
        return 1;
    }
    const pf_call call = {request[0], request[1], request + 2, (uint32_t)length - 2u};
    const uint32_t crc = pf_get32(request + length);
    if (call.sequence == 0 || call.sequence != answered_sequence || crc != answered_crc) {
        pf_reply_open(&reply, call.sequence, call.type, PF_ACCEPTED);
        const uint8_t status = answer(&call, &reply);
        if (status != PF_ACCEPTED) pf_reply_open(&reply, call.sequence, call.type, status);
        answered_sequence = call.sequence;
        answered_crc = crc;
    }
    pf_reply_send(&reply);
    return 1;
}

/* Apart, so that its frame is gone when requests are answered. */
__attribute__((noinline)) static void say_ready(const char *name) {
    static const char before[] = "picoformer ", behind[] = " ready";
    const uint32_t fixed = sizeof before - 1u + sizeof behind - 1u, length = (uint32_t)strlen(name);

    pf_reply_open(&reply, 0, PF_LOG_FRAME, PF_ACCEPTED);
    const uint32_t room = pf_reply_room(&reply) - fixed;
    pf_reply_bytes(&reply, before, sizeof before - 1u);
    pf_reply_bytes(&reply, name, length < room ? length : room);
    pf_reply_bytes(&reply, behind, sizeof behind - 1u);
    pf_port_write(0); /* ends what a start before this one left on the line */
    pf_reply_send(&reply);
}

void pf_serve_requests(const char *name, pf_answer answer) {
    say_ready(name);
    while (pf_serve_request(answer)) {
    }
}
