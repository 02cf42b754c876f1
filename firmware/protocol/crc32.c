/* CRC-32 (IEEE 802.3, reflected, polynomial 0xEDB88320), four bits at a time from a 64-byte table. */
#include "wire_internal.h"

static const uint32_t nibble_table[16] = {
    0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
    0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
};

/* crc = 0 to begin with; feed the result back in to go on. Equal to zlib's crc32(data, crc). */
uint32_t pf_crc32(uint32_t crc, const uint8_t *data, uint32_t bytes) {
    crc = ~crc;
    for (uint32_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ nibble_table[crc & 15u];
        crc = (crc >> 4) ^ nibble_table[crc & 15u];
    }
    return ~crc;
}
