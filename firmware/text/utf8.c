/* UTF-8, one character at a time, whatever the bytes are. */
#include "text_internal.h"

int32_t pf_utf8_next(const uint8_t *text, uint32_t end, uint32_t *at) {
    const uint32_t lead = text[(*at)++];
    if (lead < 0x80u) return (int32_t)lead;
    if (lead < 0xC2u || lead > 0xF4u) return PF_REPLACEMENT;

    /* What the second byte may be keeps out overlong forms, surrogates and what lies beyond U+10FFFF. */
    uint32_t more = lead < 0xE0u ? 1u : lead < 0xF0u ? 2u : 3u;
    uint32_t low = lead == 0xE0u ? 0xA0u : lead == 0xF0u ? 0x90u : 0x80u;
    uint32_t high = lead == 0xEDu ? 0x9Fu : lead == 0xF4u ? 0x8Fu : 0xBFu;
    uint32_t character = lead & (0x3Fu >> more);
    for (; more != 0; more--) {
        if (*at == end || text[*at] < low || text[*at] > high) return PF_REPLACEMENT;
        character = character << 6 | (text[(*at)++] & 0x3Fu);
        low = 0x80u;
        high = 0xBFu;
    }
    return (int32_t)character;
}

uint32_t pf_utf8_put(int32_t character, uint8_t *out) {
    const uint32_t c = (uint32_t)character;
    if (c < 0x80u) {
        out[0] = (uint8_t)c;
        return 1;
    }
    const uint32_t count = c < 0x800u ? 2u : c < 0x10000u ? 3u : 4u;
    for (uint32_t i = count - 1u, rest = c; i != 0; i--, rest >>= 6) out[i] = (uint8_t)(0x80u | (rest & 0x3Fu));
    out[0] = (uint8_t)((0xF00u >> count & 0xF0u) | c >> 6u * (count - 1u));
    return count;
}

uint32_t pf_run(const pf_classes *classes, int32_t character) {
    uint32_t low = 0, high = classes->count; /* starts[low - 1] <= character < starts[high] */
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2u;
        if ((classes->starts[middle] & 0xFFFFFFu) <= (uint32_t)character)
            low = middle + 1u;
        else
            high = middle;
    }
    return low - 1u;
}

uint32_t pf_class(const pf_classes *classes, int32_t character) {
    const uint32_t run = pf_run(classes, character);
    return run == UINT32_MAX ? 0u : classes->starts[run] >> 24;
}

uint32_t pf_find(const uint32_t *table, uint32_t count, uint32_t word) {
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2u;
        if (table[middle] < word)
            low = middle + 1u;
        else
            high = middle;
    }
    return low < count && table[low] == word ? low : count;
}
