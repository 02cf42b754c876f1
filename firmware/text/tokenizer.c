/* What every kind of tokenizer shares: the calls, and decoding. */
#include "text_internal.h"

int32_t pf_tokenizer_encode(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                            void *scratch, uint32_t scratch_bytes) {
    if (((uintptr_t)scratch & 7u) != 0) return PF_TOKENIZER_SCRATCH;
    if (max_ids > (uint32_t)INT32_MAX) max_ids = (uint32_t)INT32_MAX;
    return t->encode(t, text, bytes, ids, max_ids, scratch, scratch_bytes);
}

int32_t pf_tokenizer_encode_sequence(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                                     void *scratch, uint32_t scratch_bytes) {
    const uint32_t around = t->prefix_count + t->suffix_count;
    if (max_ids < around) return PF_TOKENIZER_IDS;
    for (uint32_t i = 0; i < t->prefix_count; i++) ids[i] = t->prefix[i];
    ids += t->prefix_count;
    const int32_t count = pf_tokenizer_encode(t, text, bytes, ids, max_ids - around, scratch, scratch_bytes);
    if (count < 0) return count;
    for (uint32_t i = 0; i < t->suffix_count; i++) ids[(uint32_t)count + i] = t->suffix[i];
    return (int32_t)((uint32_t)count + around);
}

uint32_t pf_tokenizer_scratch_bytes(const pf_tokenizer *t, uint32_t bytes) {
    const uint64_t needed = t->scratch_fixed + (uint64_t)t->scratch_per_byte * bytes;
    return needed > UINT32_MAX ? 0u : (uint32_t)needed;
}

int32_t pf_tokenizer_decode(const pf_tokenizer *t, int32_t id, uint32_t *state, uint8_t *out, uint32_t max_bytes) {
    if (id < 0 || (uint32_t)id >= t->size) return PF_TOKENIZER_NO_ID;
    uint32_t at = pf_at(&t->starts, (uint32_t)id), count = 0;
    const uint32_t end = pf_at(&t->starts, (uint32_t)id + 1u), flags = t->flags[id], rule = t->decode;
    if (flags & PF_TOKEN_CONTROL) return 0;

    int drop = 0, all = 0; /* spaces at the front */
    if (*state == 0) {
        drop =
            rule == PF_DECODE_STRIP_ANY || ((rule == PF_DECODE_STRIP || rule == PF_DECODE_STRIP_RUN) && !(flags & PF_TOKEN_BYTE));
        all = rule == PF_DECODE_STRIP_ALL && !(flags & PF_TOKEN_BYTE);
    }
    if (drop && at < end && t->bytes[at] == ' ') at++;
    if (rule == PF_DECODE_WORDS && *state == 0 && (flags & PF_TOKEN_CONTINUES)) {
        if (max_bytes < 2u) return PF_TOKENIZER_BYTES;
        out[count++] = '#';
        out[count++] = '#';
    } else if (rule == PF_DECODE_WORDS && *state != 0 && !(flags & (PF_TOKEN_CONTINUES | PF_TOKEN_JOINED))) {
        if (max_bytes == 0) return PF_TOKENIZER_BYTES;
        out[count++] = ' ';
    }
    for (; at < end; at++) {
        if (all && t->bytes[at] == ' ') continue;
        if (count == max_bytes) return PF_TOKENIZER_BYTES;
        out[count++] = t->bytes[at];
    }
    if (rule != PF_DECODE_STRIP_RUN || count != 0) *state = 1;
    return (int32_t)count;
}
