/* Words for a person, between replies. */
#include <string.h>

#include "picoformer/port.h"
#include "wire_internal.h"

#define PIECE 64u /* bytes of text that a frame carries */

void pf_wire_log(const char *text) {
    uint32_t left = (uint32_t)strlen(text);
    pf_port_write(0); /* ends what other code printed */
    do {
        uint8_t body[PF_REPLY_HEADER + PIECE + PF_CRC_BYTES] = {0, PF_LOG_FRAME, PF_ACCEPTED};
        uint32_t bytes = left < PIECE ? left : PIECE;
        while (bytes < left && bytes > PIECE - 4u && ((uint8_t)text[bytes] & 0xC0u) == 0x80u) bytes--; /* no half character */
        memcpy(body + PF_REPLY_HEADER, text, bytes);
        pf_frame_send(body, PF_REPLY_HEADER + bytes);
        text += bytes;
        left -= bytes;
    } while (left > 0);
}
