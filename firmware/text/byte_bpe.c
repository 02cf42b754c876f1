/* Byte-level BPE: text to words by a pattern of character classes, words to bytes, bytes merged. */
#include "text_internal.h"

/* Behind the run of a class that begins at r, at most `limit` characters. */
static void skip_run(const pf_byte_bpe *p, pf_reader *r, uint32_t class, uint32_t limit) {
    for (; limit != 0; limit--) {
        pf_reader ahead = *r;
        const int32_t c = pf_read(&ahead);
        if (c == PF_END || pf_class(&p->classes, c) != class) return;
        *r = ahead;
    }
}

/* Behind 's 't 're 've 'm 'll 'd, if r stands before one: whether it did. */
static int skip_contraction(pf_reader *r, int any_case) {
    static const char endings[] = "s t m d revell";
    pf_reader ahead = *r;
    if (pf_read(&ahead) != '\'') return 0;
    int32_t c[2];
    pf_reader behind[2];
    for (int i = 0; i < 2; i++) {
        c[i] = pf_read(&ahead);
        behind[i] = ahead;
        if (any_case && c[i] >= 'A' && c[i] <= 'Z') c[i] += 'a' - 'A';
        if (any_case && c[i] == 0x17F) c[i] = 's'; /* the long s is an s to whom case is nothing */
    }
    for (uint32_t i = 0; i < sizeof endings - 1u; i += 2u) {
        const int one = endings[i + 1u] == ' ';
        if (c[0] != endings[i] || (!one && c[1] != endings[i + 1u])) continue;
        *r = behind[one ? 0 : 1];
        return 1;
    }
    return 0;
}

/* Behind a run of white space as \s+(?!\S)|\s+ reads it: all of it at the end of the text, else all but the last
 * character, or that one if there is no other. With `lines`, up to the last line end in it if it has one. */
static void skip_space(const pf_byte_bpe *p, pf_reader *r, int lines) {
    pf_reader ahead = *r, before_last = *r, line_end = *r;
    int has_line_end = 0;
    uint32_t count = 0;
    for (;;) {
        pf_reader next = ahead;
        const int32_t c = pf_read(&next);
        if (c == PF_END || pf_class(&p->classes, c) != PF_CLASS_SPACE) {
            if (lines && has_line_end)
                *r = line_end;
            else
                *r = c == PF_END || count == 1u ? ahead : before_last;
            return;
        }
        before_last = ahead;
        ahead = next;
        count++;
        if (c == '\n' || c == '\r') {
            has_line_end = 1;
            line_end = next;
        }
    }
}

static void skip_gpt2(const pf_byte_bpe *p, pf_reader *r) {
    if (skip_contraction(r, 0)) return;
    pf_reader ahead = *r;
    int32_t c = pf_read(&ahead);
    if (c == ' ' && pf_peek(&ahead) != PF_END && pf_class(&p->classes, pf_peek(&ahead)) != PF_CLASS_SPACE) {
        *r = ahead;
        c = pf_read(&ahead);
    }
    const uint32_t class = pf_class(&p->classes, c);
    if (class == PF_CLASS_SPACE)
        skip_space(p, r, 0);
    else
        skip_run(p, r, class, UINT32_MAX);
}

static void skip_gpt4(const pf_byte_bpe *p, pf_reader *r) {
    if (skip_contraction(r, 1)) return;
    pf_reader ahead = *r;
    const int32_t c = pf_read(&ahead), then = pf_peek(&ahead);
    const uint32_t class = pf_class(&p->classes, c);
    const uint32_t next_class = then == PF_END ? PF_CLASS_SPACE : pf_class(&p->classes, then);

    if (class == PF_CLASS_NUMBER) {
        skip_run(p, r, PF_CLASS_NUMBER, p->longest_number);
    } else if (class == PF_CLASS_LETTER) {
        skip_run(p, r, PF_CLASS_LETTER, UINT32_MAX);
    } else if (next_class == PF_CLASS_LETTER && c != '\r' && c != '\n') {
        *r = ahead;
        skip_run(p, r, PF_CLASS_LETTER, UINT32_MAX);
    } else if (class == PF_CLASS_OTHER || (c == ' ' && next_class == PF_CLASS_OTHER)) {
        *r = ahead;
        skip_run(p, r, PF_CLASS_OTHER, UINT32_MAX);
        while (pf_peek(r) == '\r' || pf_peek(r) == '\n') (void)pf_read(r);
    } else {
        skip_space(p, r, 1);
    }
}

/*  ?[class 1]+, and what lies between two matches of it. */
static void skip_runs(const pf_byte_bpe *p, pf_reader *r) {
    pf_reader ahead = *r;
    int32_t c = pf_read(&ahead);
    if (c == ' ' && pf_peek(&ahead) != PF_END && pf_class(&p->classes, pf_peek(&ahead)) == 1u) *r = ahead;
    if (pf_class(&p->classes, pf_peek(r)) == 1u) {
        skip_run(p, r, 1u, UINT32_MAX);
        return;
    }
    for (;;) {
        ahead = *r;
        c = pf_read(&ahead);
        if (c == PF_END || pf_class(&p->classes, c) == 1u) return;
        if (c == ' ' && pf_peek(&ahead) != PF_END && pf_class(&p->classes, pf_peek(&ahead)) == 1u) return;
        *r = ahead;
    }
}

/* The token that is the word of bytes in s->id, or PF_NO_ID. */
static uint32_t whole_word(const pf_tokenizer *t, const pf_sorted *words, const pf_symbols *s) {
    pf_match match;
    pf_match_begin(&match, words);
    for (uint32_t i = 0; i < s->count; i++)
        if (!pf_match_next(t, words, &match, (uint8_t)s->id[i])) return PF_NO_ID;
    return match.id;
}

/* The ids of what lies between two readers. */
static int32_t encode_word(const pf_tokenizer *t, pf_reader from, const pf_reader *to, pf_symbols *s, pf_ids *ids) {
    const pf_byte_bpe *p = t->tables;
    from.end = to->at;
    s->count = 0;
    for (int32_t c = pf_read(&from); c != PF_END; c = pf_read(&from)) {
        uint8_t bytes[PF_UTF8_BYTES];
        const uint32_t count = pf_utf8_put(c, bytes);
        for (uint32_t i = 0; i < count; i++)
            if (!pf_symbols_add(s, bytes[i])) return PF_TOKENIZER_SCRATCH;
    }
    if (p->words.count != 0) {
        const uint32_t id = whole_word(t, &p->words, s);
        if (id != PF_NO_ID) return pf_put(ids, (int32_t)id) ? 0 : PF_TOKENIZER_IDS;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const int32_t id = p->byte_ids[s->id[i]];
        if (id >= 0) s->id[kept++] = (uint32_t)id;
    }
    s->count = kept;
    pf_merge(&p->pairs, s);
    for (uint32_t i = 0; i < s->count; i = s->next[i])
        if (!pf_put(ids, (int32_t)s->id[i])) return PF_TOKENIZER_IDS;
    return 0;
}

/* The end of the part of the text that patterns see at once. */
static uint32_t chunk_end(const pf_byte_bpe *p, const uint8_t *text, uint32_t start, uint32_t end) {
    if (p->digits.count == 0) return end;
    for (uint32_t at = start, next = start; at < end; at = next) {
        const int32_t c = pf_utf8_next(text, end, &next);
        if (pf_class(&p->digits, c) == 1u) return at == start ? next : at;
    }
    return end;
}

int32_t pf_encode_byte_bpe(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                           uint64_t *scratch, uint32_t scratch_bytes) {
    const pf_byte_bpe *p = t->tables;
    pf_symbols symbols;
    pf_symbols_lay(&symbols, scratch, scratch_bytes);
    pf_ids out = {ids, 0, max_ids};

    for (uint32_t start = 0, end; start < bytes; start = end) {
        end = chunk_end(p, text, start, bytes);
        pf_reader r = {text, start, end, p->prefix_space && text[start] != ' '};
        while (r.at < end || r.space) {
            pf_reader behind = r;
            if (p->split == PF_SPLIT_GPT2)
                skip_gpt2(p, &behind);
            else if (p->split == PF_SPLIT_GPT4)
                skip_gpt4(p, &behind);
            else if (p->split == PF_SPLIT_RUNS)
                skip_runs(p, &behind);
            else
                while (pf_read(&behind) != PF_END) {
                }
            const int32_t error = encode_word(t, r, &behind, &symbols, &out);
            if (error) return error;
            r = behind;
        }
    }
    return (int32_t)out.count;
}
