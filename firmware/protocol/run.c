/* Running the model call by call: the counted regions, and outside them the CRCs and the reply. */
#include "picoformer/device.h"
#include "picoformer/port.h"
#include "wire_internal.h"

static uint32_t cycles_now(uint32_t flags) {
    uint32_t now = 0;
    if (flags & PF_RUN_CYCLES) (void)pf_port_cycles(&now);
    return now;
}

/* Zeros below this frame, where sending left return addresses: what unwinds a stack that a step overflows should find the
 * step's calls, not these. */
__attribute__((noinline)) static void forget_calls(void) {
    volatile uint32_t stale[48];
    for (uint32_t i = 0; i < sizeof stale / sizeof *stale; i++) stale[i] = 0;
}

static uint8_t run_calls(pf_reply *reply, uint32_t flags, uint32_t until) {
    uint32_t missing = until == PF_ALL_STEPS ? 1u : pf_device.steps[until].bytes; /* of the last step wanted */
    int more = 1;

    pf_stream_begin(reply);
    pf_port_watchdog(1);
    uint32_t before = cycles_now(flags);
    pf_port_call_init(pf_device.init, pf_device.state);
    uint32_t taken = cycles_now(flags) - before;
    pf_port_watchdog(0);
    if (flags & PF_RUN_CYCLES) pf_stream_u32(reply, taken);

    while (more > 0 && missing > 0) {
        pf_piece piece;
        pf_device.next(pf_device.state, &piece);
        pf_running_step = (uint16_t)piece.step;
        forget_calls();
        pf_port_watchdog(1);
        before = cycles_now(flags);
        more = pf_port_call_step(pf_device.step, pf_device.state);
        taken = cycles_now(flags) - before;
        pf_port_watchdog(0);
        pf_running_step = PF_NO_STEP;
        if (more < 0) return PF_STEP_FAILED; /* whoever called refuses the request, in place of the next frame */
        if (piece.step == until) missing -= piece.bytes;
        if (flags & PF_RUN_STEP) {
            if (piece.step == until) pf_stream_bytes(reply, piece.data, piece.bytes);
            continue;
        }
        pf_stream_u16(reply, piece.step);
        if (flags & PF_RUN_CRC) {
            pf_stream_u32(reply, piece.bytes);
            pf_stream_u32(reply, pf_crc32(0, piece.data, piece.bytes));
        }
        if (flags & PF_RUN_CYCLES) pf_stream_u32(reply, taken);
    }
    if (flags & PF_RUN_OUTPUTS) {
        for (uint32_t i = 0; i < pf_device.output_count; i++) {
            const pf_tensor_info *tensor = &pf_device.outputs[i];
            pf_stream_bytes(reply, pf_device.arena + tensor->offset, tensor->bytes);
        }
    }
    pf_stream_end(reply);
    return PF_ACCEPTED;
}

uint8_t pf_wire_run(pf_reply *reply, uint32_t flags, uint32_t until) {
    if (flags & PF_RUN_CYCLES) pf_port_count_cycles(1);
    const uint8_t status = run_calls(reply, flags, until);
    if (flags & PF_RUN_CYCLES) pf_port_count_cycles(0);
    return status;
}
