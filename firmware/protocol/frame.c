/* Frames: a body and its CRC-32, byte-stuffed (COBS) and ended by a zero byte. */
#include "picoformer/port.h"
#include "wire_internal.h"

#define CAPACITY  (PF_FRAME_BYTES + PF_CRC_BYTES)
#define COBS_FULL 0xFFu /* a group of 254 bytes that no zero follows */

uint32_t pf_get16(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8;
}

uint32_t pf_get32(const uint8_t *from) {
    return pf_get16(from) | pf_get16(from + 2) << 16;
}

void pf_put16(uint8_t *to, uint32_t value) {
    to[0] = (uint8_t)(value & 0xFFu);
    to[1] = (uint8_t)(value >> 8 & 0xFFu);
}

void pf_put32(uint8_t *to, uint32_t value) {
    pf_put16(to, value & 0xFFFFu);
    pf_put16(to + 2, value >> 16);
}

int32_t pf_frame_receive(uint8_t *body) {
    uint32_t length = 0, left = 0, code = COBS_FULL;
    int empty = 1, too_long = 0;

    for (;;) {
        int byte = pf_port_read();
        if (byte < 0) return PF_FRAME_GONE;
        if (byte == 0) {
            if (empty) continue; /* a lone delimiter: the host wakes the line */
            break;
        }
        if (left == 0) {
            if (code != COBS_FULL) { /* the zero that the previous group stood for */
                if (length < CAPACITY)
                    body[length++] = 0;
                else
                    too_long = 1;
            }
            code = (uint32_t)byte;
            left = code - 1u;
        } else {
            if (length < CAPACITY)
                body[length++] = (uint8_t)byte;
            else
                too_long = 1;
            left--;
        }
        empty = 0;
    }
    if (too_long) return PF_FRAME_TOO_LONG;
    if (left != 0 || length < PF_CRC_BYTES) return PF_FRAME_BROKEN;
    length -= PF_CRC_BYTES;
    if (pf_crc32(0, body, length) != pf_get32(body + length)) return PF_FRAME_BAD_CRC;
    return (int32_t)length;
}

void pf_frame_send(uint8_t *body, uint32_t bytes) {
    pf_put32(body + bytes, pf_crc32(0, body, bytes));
    bytes += PF_CRC_BYTES;

    /* One group a turn: up to 254 bytes without a zero, its length first. A zero that ends a group is implied,
     * so a body that ends in a zero ends in an empty group. */
    uint32_t start = 0;
    for (;;) {
        uint32_t run = 0;
        while (run < 254u && start + run < bytes && body[start + run] != 0) run++;
        pf_port_write((uint8_t)(run + 1u));
        for (uint32_t i = 0; i < run; i++) pf_port_write(body[start + i]);
        start += run;
        if (start >= bytes) break;
        if (run < 254u) start++; /* the implied zero */
    }
    pf_port_write(0);
    pf_port_flush();
}
