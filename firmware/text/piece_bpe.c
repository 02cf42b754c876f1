/* BPE over characters, as SentencePiece has it: characters without a token become bytes or the unknown token. */
#include "spaces.h"

#define UNKNOWN 0x80000000u /* a symbol that is a character without a token */

static int32_t flush(const pf_piece_bpe *p, pf_symbols *s, pf_ids *ids) {
    int after_unknown = 0;
    pf_merge(&p->pairs, s);
    for (uint32_t i = 0; i < s->count; i = s->next[i]) {
        const uint32_t symbol = s->id[i];
        const int is_unknown = symbol >= UNKNOWN;
        if (!is_unknown) {
            if (!pf_put(ids, (int32_t)symbol)) return PF_TOKENIZER_IDS;
        } else if (p->byte_ids) {
            uint8_t bytes[PF_UTF8_BYTES];
            const uint32_t count = pf_spaces_put(&p->spaces, (int32_t)(symbol - UNKNOWN), bytes);
            for (uint32_t k = 0; k < count; k++)
                if (!pf_put(ids, p->byte_ids[bytes[k]])) return PF_TOKENIZER_IDS;
        } else if (p->unknown >= 0 && !(p->fuse_unknown && after_unknown)) {
            if (!pf_put(ids, p->unknown)) return PF_TOKENIZER_IDS;
        }
        after_unknown = is_unknown;
    }
    s->count = 0;
    return 0;
}

int32_t pf_encode_piece_bpe(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                            uint64_t *scratch, uint32_t scratch_bytes) {
    const pf_piece_bpe *p = t->tables;
    pf_symbols symbols;
    pf_symbols_lay(&symbols, scratch, scratch_bytes);
    pf_ids out = {ids, 0, max_ids};
    pf_spaces_reader r;
    int32_t error;

    pf_spaces_begin(&r, &p->spaces, text, bytes);
    for (int32_t c = pf_spaces_next(&r); c != PF_END; c = pf_spaces_next(&r)) {
        if (p->spaces.split && c == ' ' && symbols.count != 0) {
            error = flush(p, &symbols, &out);
            if (error) return error;
        }
        const uint32_t at = pf_find(p->characters, p->character_count, (uint32_t)c);
        const uint32_t id = at < p->character_count ? pf_word(p->character_ids, t->wide, at) : UNKNOWN | (uint32_t)c;
        if (!pf_symbols_add(&symbols, id)) return PF_TOKENIZER_SCRATCH;
    }
    error = flush(p, &symbols, &out);
    return error ? error : (int32_t)out.count;
}
