/* WordPiece as BERT has it: characters cleaned and mapped one by one, words between spaces and punctuation, and of each
 * word the longest token first. */
#include "text_internal.h"

/* Hangul syllables are composed by arithmetic (Unicode, section 3.12). */
#define HANGUL_FIRST 0xAC00
#define LEADING      0x1100
#define VOWEL        0x1161
#define TRAILING     0x11A7
#define TRAILINGS    28
#define PER_LEADING  588

typedef struct pf_word_state {
    const pf_tokenizer *t;
    uint32_t *characters; /* of the word so far, longest_word at most */
    uint32_t count, capacity;
    pf_ids out;
} pf_word_state;

/* The tokens of the word: how many, or 0 if some part of it has none. Written only where `ids` is. */
static uint32_t segment(const pf_word_state *w, pf_ids *ids) {
    const pf_wordpiece *p = w->t->tables;
    uint32_t tokens = 0;
    for (uint32_t start = 0; start < w->count; tokens++) {
        const pf_sorted *sorted = start == 0 ? &p->starts : &p->continuations;
        uint32_t end = start, best = PF_NO_ID;
        pf_match match;
        pf_match_begin(&match, sorted);
        for (uint32_t i = start; i < w->count; i++) {
            uint8_t bytes[PF_UTF8_BYTES];
            const uint32_t count = pf_utf8_put((int32_t)w->characters[i], bytes);
            uint32_t k = 0;
            while (k < count && pf_match_next(w->t, sorted, &match, bytes[k])) k++;
            if (k < count) break;
            if (match.id != PF_NO_ID) {
                best = match.id;
                end = i + 1u;
            }
        }
        if (best == PF_NO_ID) return 0;
        if (ids && !pf_put(ids, (int32_t)best)) return 0;
        start = end;
    }
    return tokens;
}

static int32_t end_word(pf_word_state *w) {
    const pf_wordpiece *p = w->t->tables;
    int32_t error = 0;
    if (w->count == 0) return 0;
    const uint32_t tokens = w->count > p->longest_word ? 0u : segment(w, 0);
    if (tokens == 0)
        error = pf_put(&w->out, p->unknown) ? 0 : PF_TOKENIZER_IDS;
    else if (segment(w, &w->out) != tokens)
        error = PF_TOKENIZER_IDS;
    w->count = 0;
    return error;
}

static int32_t add_character(pf_word_state *w, int32_t c) {
    const pf_wordpiece *p = w->t->tables;
    if (w->count > p->longest_word) return 0; /* it is the unknown token whatever follows */
    if (w->count == w->capacity) return PF_TOKENIZER_SCRATCH;
    uint32_t at = w->count++;
    const uint32_t order = pf_class(&p->order, c);
    if (order != 0)
        for (; at != 0 && pf_class(&p->order, (int32_t)w->characters[at - 1u]) > order; at--)
            w->characters[at] = w->characters[at - 1u];
    w->characters[at] = (uint32_t)c;
    return 0;
}

/* A character behind the normalization. */
static int32_t take(pf_word_state *w, int32_t c, uint32_t spaced) {
    const pf_wordpiece *p = w->t->tables;
    const uint32_t class = pf_class(&p->characters, c) & PF_WORD_CLASS;
    int32_t error = 0;
    if (spaced || class != PF_WORD_LETTER) error = end_word(w);
    if (error == 0 && class != PF_WORD_SPACE) error = add_character(w, c);
    if (error == 0 && (spaced || class == PF_WORD_PUNCTUATION)) error = end_word(w);
    return error;
}

static int32_t take_hangul(pf_word_state *w, int32_t c) {
    const int32_t syllable = c - HANGUL_FIRST, trailing = syllable % TRAILINGS;
    int32_t error = take(w, LEADING + syllable / PER_LEADING, 0);
    if (error == 0) error = take(w, VOWEL + syllable % PER_LEADING / TRAILINGS, 0);
    if (error == 0 && trailing != 0) error = take(w, TRAILING + trailing, 0);
    return error;
}

static int32_t take_mapped(pf_word_state *w, int32_t c, uint32_t spaced) {
    const pf_wordpiece *p = w->t->tables;
    const uint32_t run = pf_run(&p->map, c);
    const int32_t value = p->map_values[run];
    const uint32_t kind = p->map.starts[run] >> 24, first = p->map.starts[run] & 0xFFFFFFu;
    if (kind == PF_MAP_DELTA) return take(w, c + value, spaced);
    if (kind == PF_MAP_HANGUL) return take_hangul(w, c);
    const uint32_t sequence = (uint32_t)value + (uint32_t)c - first;
    int32_t error = 0;
    for (uint32_t i = pf_at(&p->sequences, sequence); error == 0 && i < pf_at(&p->sequences, sequence + 1u); i++)
        error = take(w, (int32_t)p->sequence_characters[i], spaced);
    return error;
}

int32_t pf_encode_wordpiece(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                            uint64_t *scratch, uint32_t scratch_bytes) {
    const pf_wordpiece *p = t->tables;
    void *room = scratch;
    pf_word_state w = {t, room, 0, scratch_bytes / 4u, {ids, 0, max_ids}};
    for (uint32_t at = 0; at < bytes;) {
        const int32_t c = pf_utf8_next(text, bytes, &at);
        const uint32_t what = pf_class(&p->characters, c);
        if (what & PF_WORD_DELETED) continue;
        const int32_t error =
            what & PF_WORD_MAPPED ? take_mapped(&w, c, what & PF_WORD_SPACED) : take(&w, c, what & PF_WORD_SPACED);
        if (error) return error;
    }
    const int32_t error = end_word(&w);
    return error ? error : (int32_t)w.out.count;
}
