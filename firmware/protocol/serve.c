/* The requests of a model's firmware: check every field, act, reply. */
#include <string.h>

#include "picoformer/device.h"
#include "picoformer/port.h"
#include "wire_internal.h"
#ifdef PF_TEXT
#include "picoformer/text_device.h"
#endif

#ifndef PF_CLOCK_HZ
#define PF_CLOCK_HZ 0u
#endif

/* Bytes of a describe record besides its name: offset, bytes, length of the name. */
#define DESCRIBE_RECORD 9u

static uint32_t input_bytes_written; /* since the last run, which may have overwritten the inputs */
static int outputs_are_there;        /* the arena holds what a whole run left */
static uint32_t mark;                /* of the last reset; a start clears it, and a host sees by it that there was one */

/* The inputs, or what a plain run computes, take the place of a text. */
static void leave_text(void) {
#ifdef PF_TEXT
    pf_text_forget();
#endif
}

static int counts_cycles(void) {
    uint32_t now;
    return pf_port_cycles(&now);
}

static uint8_t hello(const pf_call *in, pf_reply *reply) {
    if (in->bytes != 0) return PF_BAD_LENGTH;
    uint32_t flags = counts_cycles() ? PF_HELLO_CYCLES : 0u;
#ifdef PF_FAULT_TESTS
    flags |= PF_HELLO_FAULT_TESTS;
#endif
#ifdef PF_TEXT
    flags |= PF_HELLO_TEXT;
#endif
    pf_reply_u16(reply, PF_WIRE_VERSION);
    pf_reply_u16(reply, PF_FRAME_BYTES);
    pf_reply_bytes(reply, pf_device.identity, sizeof pf_device.identity);
    pf_reply_u16(reply, pf_device.input_count);
    pf_reply_u16(reply, pf_device.output_count);
    pf_reply_u16(reply, pf_device.step_count);
    pf_reply_u16(reply, flags);
    pf_reply_u32(reply, pf_device.arena_bytes);
    pf_reply_u32(reply, PF_CLOCK_HZ);
    uint32_t length = (uint32_t)strlen(pf_device.name);
    uint32_t room = pf_reply_room(reply);
    pf_reply_bytes(reply, pf_device.name, length < room ? length : room);
    return PF_ACCEPTED;
}

static uint8_t describe(const pf_call *in, pf_reply *reply) {
    if (in->bytes != 3) return PF_BAD_LENGTH;
    const pf_tensor_info *const tables[3] = {pf_device.inputs, pf_device.outputs, pf_device.steps};
    const uint16_t counts[3] = {pf_device.input_count, pf_device.output_count, pf_device.step_count};
    uint32_t kind = in->payload[0], index = pf_get16(in->payload + 1);
    if (kind > 2 || index >= counts[kind]) return PF_OUT_OF_RANGE;
    for (; index < counts[kind]; index++) {
        const pf_tensor_info *tensor = &tables[kind][index];
        uint32_t length = (uint32_t)strlen(tensor->name);
        length = length < 255u ? length : 255u;
        if (pf_reply_room(reply) < DESCRIBE_RECORD + length) break;
        pf_reply_u32(reply, tensor->offset);
        pf_reply_u32(reply, tensor->bytes);
        pf_reply_u8(reply, length);
        pf_reply_bytes(reply, tensor->name, length);
    }
    return PF_ACCEPTED;
}

static uint8_t write_input(const pf_call *in, pf_reply *reply) {
    (void)reply;
    if (in->bytes < 6) return PF_BAD_LENGTH;
    uint32_t index = pf_get16(in->payload), offset = pf_get32(in->payload + 2), bytes = in->bytes - 6u;
    if (index >= pf_device.input_count) return PF_OUT_OF_RANGE;
    const pf_tensor_info *tensor = &pf_device.inputs[index];
    if (offset > tensor->bytes || bytes > tensor->bytes - offset) return PF_OUT_OF_RANGE;
    leave_text();
    memcpy(pf_device.arena + tensor->offset + offset, in->payload + 6, bytes);
    input_bytes_written += bytes;
    outputs_are_there = 0;
    return PF_ACCEPTED;
}

/* Check a run and take its inputs. The run itself is dispatch's, so that this frame is off the stack by then. */
static uint8_t begin_run(const pf_call *in, pf_reply *reply) {
    (void)reply;
    if (in->bytes != 7) return PF_BAD_LENGTH;
    uint32_t flags = in->payload[0], until = pf_get16(in->payload + 1), needed = 0;
    if (flags & ~(PF_RUN_CRC | PF_RUN_CYCLES | PF_RUN_OUTPUTS | PF_RUN_STEP)) return PF_OUT_OF_RANGE;
    if ((flags & PF_RUN_STEP) && (flags != PF_RUN_STEP || until == PF_ALL_STEPS)) return PF_OUT_OF_RANGE;
    if ((flags & PF_RUN_CYCLES) && !counts_cycles()) return PF_OUT_OF_RANGE;
    if (until != PF_ALL_STEPS && until >= pf_device.step_count) return PF_OUT_OF_RANGE;
    if ((flags & PF_RUN_OUTPUTS) && until != PF_ALL_STEPS && until + 1u != pf_device.step_count)
        return PF_OUT_OF_RANGE; /* there are no outputs before the last step */
    uint8_t mark_bytes[4];
    pf_put32(mark_bytes, mark);
    uint32_t crc = pf_crc32(0, mark_bytes, sizeof mark_bytes);
    for (uint32_t i = 0; i < pf_device.input_count; i++) {
        needed += pf_device.inputs[i].bytes;
        crc = pf_crc32(crc, pf_device.arena + pf_device.inputs[i].offset, pf_device.inputs[i].bytes);
    }
    if (input_bytes_written < needed) return PF_INPUT_MISSING;
    if (crc != pf_get32(in->payload + 3)) return PF_NOT_THESE;
    input_bytes_written = 0;
    outputs_are_there = until == PF_ALL_STEPS || until + 1u == pf_device.step_count;
    return PF_ACCEPTED;
}

static uint8_t read_output(const pf_call *in, pf_reply *reply) {
    if (in->bytes != 8) return PF_BAD_LENGTH;
    uint32_t index = pf_get16(in->payload), offset = pf_get32(in->payload + 2), bytes = pf_get16(in->payload + 6);
    if (index >= pf_device.output_count) return PF_OUT_OF_RANGE;
    const pf_tensor_info *tensor = &pf_device.outputs[index];
    if (offset > tensor->bytes || bytes > tensor->bytes - offset) return PF_OUT_OF_RANGE;
    if (!outputs_are_there) return PF_STALE;
    if (bytes > pf_reply_room(reply)) return PF_TOO_LONG;
    pf_reply_bytes(reply, pf_device.arena + tensor->offset + offset, bytes);
    return PF_ACCEPTED;
}

static uint8_t stack(const pf_call *in, pf_reply *reply) {
    if (in->bytes != 0) return PF_BAD_LENGTH;
    pf_reply_u32(reply, pf_port_stack_bytes());
    pf_reply_u32(reply, pf_port_stack_used());
    return PF_ACCEPTED;
}

static uint8_t reset(const pf_call *in, pf_reply *reply) {
    (void)reply;
    if (in->bytes != 4) return PF_BAD_LENGTH;
    const uint32_t given = pf_get32(in->payload);
    if (given == 0) return PF_OUT_OF_RANGE;
    if (given == mark) return PF_ACCEPTED; /* this very reset, which the line held up */
    mark = given;
    leave_text();
#ifdef PF_TEXT
    memset(pf_text.states, 0, pf_text.state_bytes);
#endif
    pf_device.init(pf_device.state);
    pf_port_stack_forget();
    input_bytes_written = 0;
    outputs_are_there = 0;
    return PF_ACCEPTED;
}

#ifdef PF_TEXT
static uint8_t text(const pf_call *in, pf_reply *reply) {
    uint8_t status;
    switch (in->type) {
    case PF_TEXT_BEGIN:
        status = pf_text_begin(reply, in->payload, in->bytes);
        break;
    case PF_TEXT_FEED:
        status = pf_text_feed(reply, in->payload, in->bytes);
        break;
    case PF_TEXT_NEXT:
        status = pf_text_next(reply, in->payload, in->bytes);
        break;
    default:
        status = pf_text_beam(reply, in->payload, in->bytes);
        break;
    }
    if (status != PF_BAD_LENGTH && status != PF_STALE) { /* the text's own inputs are in the arena from now on */
        input_bytes_written = 0;
        outputs_are_there = 0;
    }
    return status;
}
#endif

#ifdef PF_FAULT_TESTS
static uint8_t fault_test(const pf_call *in, pf_reply *reply) {
    (void)reply;
    return in->bytes == 1 ? pf_fault_test(in->payload[0]) : (uint8_t)PF_BAD_LENGTH;
}
#endif

/* A table, so that each answer has a stack frame of its own. */
static const struct {
    uint8_t type;
    pf_answer answer;
} requests[] = {
    {PF_HELLO, hello},           {PF_DESCRIBE, describe},       {PF_WRITE_INPUT, write_input},
    {PF_RUN, begin_run},         {PF_READ_OUTPUT, read_output}, {PF_STACK, stack},
    {PF_RESET, reset},
#ifdef PF_TEXT
    {PF_TEXT_BEGIN, text},       {PF_TEXT_FEED, text},          {PF_TEXT_NEXT, text},
    {PF_TEXT_BEAM, text},
#endif
#ifdef PF_FAULT_TESTS
    {PF_FAULT_TEST, fault_test},
#endif
};

static uint8_t dispatch(const pf_call *in, pf_reply *reply) {
    uint32_t i = 0;
    while (i < sizeof requests / sizeof *requests && requests[i].type != in->type) i++;
    if (i == sizeof requests / sizeof *requests) return PF_UNKNOWN_TYPE;
    uint8_t status = requests[i].answer(in, reply);
    if (in->type == PF_RUN && status == PF_ACCEPTED) status = pf_wire_run(reply, in->payload[0], pf_get16(in->payload + 1));
    if (status == PF_STEP_FAILED) outputs_are_there = 0;
    return status;
}

void pf_wire_serve(void) {
    pf_serve_requests(pf_device.name, dispatch);
}
