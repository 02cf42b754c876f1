/* Running the model call by call: the counted regions, and outside them the CRCs and the reply. */
#include "picoformer/device.h"
#include "picoformer/port.h"
#include "wire_internal.h"

volatile uint16_t pf_running_step = PF_NO_STEP;

#define MORE_OFFSET PF_REPLY_HEADER /* the byte that says whether another frame follows */

typedef struct stream {
    pf_reply *reply;
    uint8_t sequence;
} stream;

static void stream_open(stream *out) {
    pf_reply_open(out->reply, out->sequence, PF_RUN, PF_ACCEPTED);
    pf_reply_u8(out->reply, 0);
}

static void stream_bytes(stream *out, const uint8_t *data, uint32_t bytes) {
    while (bytes > 0) {
        uint32_t part = pf_reply_room(out->reply);
        if (part == 0) {
            out->reply->body[MORE_OFFSET] = 1;
            pf_reply_send(out->reply);
            stream_open(out);
            continue;
        }
        part = part < bytes ? part : bytes;
        pf_reply_bytes(out->reply, data, part);
        data += part;
        bytes -= part;
    }
}

static void stream_u16(stream *out, uint32_t value) {
    uint8_t bytes[2];
    pf_put16(bytes, value);
    stream_bytes(out, bytes, sizeof bytes);
}

static void stream_u32(stream *out, uint32_t value) {
    uint8_t bytes[4];
    pf_put32(bytes, value);
    stream_bytes(out, bytes, sizeof bytes);
}

/* Cycles since `before`; 0 where there is no counter. */
static uint32_t cycles_since(uint32_t before) {
    uint32_t now = 0;
    return pf_port_cycles(&now) ? now - before : 0;
}

static uint32_t cycles_now(void) {
    uint32_t now = 0;
    (void)pf_port_cycles(&now);
    return now;
}

/* Zeros below this frame, where sending left return addresses: what unwinds a stack that a step overflows should find the
 * step's calls, not these. */
__attribute__((noinline)) static void forget_calls(void) {
    volatile uint32_t stale[48];
    for (uint32_t i = 0; i < sizeof stale / sizeof *stale; i++) stale[i] = 0;
}

uint8_t pf_wire_run(pf_reply *reply, uint8_t sequence, uint32_t flags, uint32_t until) {
    stream out = {reply, sequence};
    uint32_t missing = until == PF_ALL_STEPS ? 1u : pf_device.steps[until].bytes; /* of the last step wanted */
    int more = 1;

    stream_open(&out);
    pf_port_watchdog(1);
    uint32_t before = cycles_now();
    pf_port_call_init(pf_device.init, pf_device.state);
    uint32_t taken = cycles_since(before);
    pf_port_watchdog(0);
    if (flags & PF_RUN_CYCLES) stream_u32(&out, taken);

    while (more > 0 && missing > 0) {
        pf_piece piece;
        pf_device.next(pf_device.state, &piece);
        pf_running_step = (uint16_t)piece.step;
        forget_calls();
        pf_port_watchdog(1);
        before = cycles_now();
        more = pf_port_call_step(pf_device.step, pf_device.state);
        taken = cycles_since(before);
        pf_port_watchdog(0);
        pf_running_step = PF_NO_STEP;
        if (more < 0) return PF_STEP_FAILED; /* whoever called refuses the request, in place of the next frame */
        if (piece.step == until) missing -= piece.bytes;
        if (flags & PF_RUN_STEP) {
            if (piece.step == until) stream_bytes(&out, piece.data, piece.bytes);
            continue;
        }
        stream_u16(&out, piece.step);
        if (flags & PF_RUN_CRC) {
            stream_u32(&out, piece.bytes);
            stream_u32(&out, pf_crc32(0, piece.data, piece.bytes));
        }
        if (flags & PF_RUN_CYCLES) stream_u32(&out, taken);
    }
    if (flags & PF_RUN_OUTPUTS) {
        for (uint32_t i = 0; i < pf_device.output_count; i++) {
            const pf_tensor_info *tensor = &pf_device.outputs[i];
            stream_bytes(&out, pf_device.arena + tensor->offset, tensor->bytes);
        }
    }
    pf_reply_send(reply);
    return PF_ACCEPTED;
}
