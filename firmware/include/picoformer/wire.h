/* The serial protocol's numbers and the functions that speak it; SPEC.md states every byte. */
#ifndef PICOFORMER_WIRE_H
#define PICOFORMER_WIRE_H

#include <stdint.h>

#define PF_WIRE_VERSION 3u

/* Longest body (before CRC and byte stuffing) of a frame in either direction. A target may make it smaller. */
#ifndef PF_FRAME_BYTES
#define PF_FRAME_BYTES 1040u
#endif

#define PF_REPLY             0x80u   /* reply type = request type | PF_REPLY */
#define PF_LOG_FRAME         0xFEu   /* unsolicited: text for a person */
#define PF_FAULT_FRAME       0xFFu   /* unsolicited */
#define PF_ALL_STEPS         0xFFFFu /* run: no stop before the last step */
#define PF_NO_STEP           0xFFFFu /* fault: not inside a step */
#define PF_RUN_CRC           0x01u   /* run flags */
#define PF_RUN_CYCLES        0x02u
#define PF_RUN_OUTPUTS       0x04u
#define PF_RUN_STEP          0x08u
#define PF_HELLO_CYCLES      0x01u /* hello flags */
#define PF_HELLO_FAULT_TESTS 0x02u
#define PF_HELLO_TEXT        0x04u

enum pf_message {
    PF_HELLO = 0x01,
    PF_DESCRIBE = 0x02,
    PF_WRITE_INPUT = 0x03,
    PF_RUN = 0x04,
    PF_READ_OUTPUT = 0x05,
    PF_STACK = 0x07,
    PF_RESET = 0x08,
    /* 0x10 to 0x17: a bootloader; 0x30 to 0x37: firmware that captures samples */
    PF_TEXT_BEGIN = 0x20, /* language models only */
    PF_TEXT_FEED = 0x21,
    PF_TEXT_NEXT = 0x22,
    PF_TEXT_BEAM = 0x23,
    PF_FAULT_TEST = 0x7E
};

enum pf_status {
    PF_ACCEPTED = 0,
    PF_BAD_CRC = 1,
    PF_BAD_FRAME = 2, /* byte stuffing broken, or too short for a request */
    PF_TOO_LONG = 3,
    PF_UNKNOWN_TYPE = 4,
    PF_BAD_LENGTH = 5,
    PF_OUT_OF_RANGE = 6,
    PF_STALE = 7,         /* read output: no whole run since the inputs were written; text: none was begun */
    PF_INPUT_MISSING = 8, /* run: the inputs were not all written since the last run */
    PF_STEP_FAILED = 9,   /* a step refused its input, as an embedding does an id past its rows */
    PF_NOT_THESE = 10     /* run: the inputs, or the mark of the last reset, are not those that the host means */
};

enum pf_fault_kind {
    PF_FAULT_OTHER = 0,
    PF_FAULT_MEMORY = 1,
    PF_FAULT_STACK_OVERFLOW = 2,
    PF_FAULT_BAD_JUMP = 3,
    PF_FAULT_UNDEFINED = 4,
    PF_FAULT_HANG = 5,
    PF_FAULT_ARITHMETIC = 6
};

/* A fault as a port saw it; registers a machine does not have are 0. */
typedef struct pf_fault {
    uint8_t kind;      /* enum pf_fault_kind */
    uint8_t exception; /* exception (Cortex-M), cause (RISC-V; an interrupt: + 0x80) or signal (host) */
    uint64_t pc, lr, sp, address;
    uint32_t cfsr, hfsr, mmfar, bfar;
} pf_fault;

/* Serve requests until the host goes away. */
void pf_wire_serve(void);

/* Send text (UTF-8, no end of line needed) to whoever listens, in log frames; outside of a counted region, and not from a fault
 * handler or an interrupt. */
void pf_wire_log(const char *text);

/* Send a fault frame. Safe from any fault handler: uses its own buffer and no more than 200 bytes of stack. */
void pf_wire_fault(const pf_fault *fault);

#endif
