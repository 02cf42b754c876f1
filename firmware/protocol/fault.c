/* The fault frame, sent by a port's fault handler when nothing else can be trusted any more. */
#include "picoformer/port.h"
#include "wire_internal.h"

volatile uint16_t pf_running_step = PF_NO_STEP;

static void put64(uint8_t *to, uint64_t value) {
    pf_put32(to, (uint32_t)(value & 0xFFFFFFFFu));
    pf_put32(to + 4, (uint32_t)(value >> 32));
}

void pf_wire_fault(const pf_fault *fault) {
    static uint8_t body[55 + PF_CRC_BYTES];

    body[0] = 0;
    body[1] = PF_FAULT_FRAME;
    body[2] = PF_ACCEPTED;
    body[3] = fault->kind;
    body[4] = fault->exception;
    pf_put16(body + 5, pf_running_step);
    put64(body + 7, fault->pc);
    put64(body + 15, fault->lr);
    put64(body + 23, fault->sp);
    put64(body + 31, fault->address);
    pf_put32(body + 39, fault->cfsr);
    pf_put32(body + 43, fault->hfsr);
    pf_put32(body + 47, fault->mmfar);
    pf_put32(body + 51, fault->bfar);
    pf_port_write(0); /* ends whatever frame the fault cut short */
    pf_frame_send(body, 55);
}
