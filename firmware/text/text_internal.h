/* What the files of this folder share: reading text, looking up, merging. */
#ifndef PICOFORMER_TEXT_INTERNAL_H
#define PICOFORMER_TEXT_INTERNAL_H

#include "picoformer/tokenizer.h"

#define PF_END         (-1) /* no character any more */
#define PF_REPLACEMENT 0xFFFD
#define PF_UTF8_BYTES  4u
#define PF_NO_RANK     0xFFFFFFFFu

/* A text being read. With `space` set there is a space before it that is not in memory. */
typedef struct pf_reader {
    const uint8_t *text;
    uint32_t at, end, space;
} pf_reader;

/* The character at *at, which moves behind it; a maximal part of a broken sequence is one U+FFFD. *at < end. */
int32_t pf_utf8_next(const uint8_t *text, uint32_t end, uint32_t *at);

/* The bytes of a character; their count, 1 to 4. */
uint32_t pf_utf8_put(int32_t character, uint8_t *out);

static inline int32_t pf_read(pf_reader *r) {
    if (r->space) {
        r->space = 0;
        return ' ';
    }
    return r->at < r->end ? pf_utf8_next(r->text, r->end, &r->at) : PF_END;
}

/* The next character, left where it is. */
static inline int32_t pf_peek(const pf_reader *r) {
    pf_reader ahead = *r;
    return pf_read(&ahead);
}

/* Element i of a table of uint16_t or uint32_t. */
static inline uint32_t pf_word(const void *table, uint32_t wide, uint32_t i) {
    return wide ? ((const uint32_t *)table)[i] : ((const uint16_t *)table)[i];
}

static inline uint32_t pf_at(const pf_index *index, uint32_t i) {
    return index->base[i >> index->shift] + index->low[i];
}

/* The last start that is not above a character; UINT32_MAX where there is none. */
uint32_t pf_run(const pf_classes *classes, int32_t character);

/* The class of a character, 0 below the first start. */
uint32_t pf_class(const pf_classes *classes, int32_t character);

/* Where in an ascending table a word is; `count` where it is not. */
uint32_t pf_find(const uint32_t *table, uint32_t count, uint32_t word);

/* Walking down the sorted ids, byte by byte: those in low .. high begin with the bytes read. */
typedef struct pf_match {
    uint32_t low, high, depth;
    uint32_t id; /* the one that is these bytes exactly, or PF_NO_ID */
} pf_match;

#define PF_NO_ID 0xFFFFFFFFu

void pf_match_begin(pf_match *m, const pf_sorted *sorted);

/* Whether any begins with one byte more. */
int pf_match_next(const pf_tokenizer *t, const pf_sorted *sorted, pf_match *m, uint8_t byte);

/* Ids being written. */
typedef struct pf_ids {
    int32_t *ids;
    uint32_t count, max;
} pf_ids;

/* Whether there was room for it. */
static inline int pf_put(pf_ids *to, int32_t id) {
    if (to->count == to->max) return 0;
    to->ids[to->count++] = id;
    return 1;
}

/* The symbols of a word, to be merged. Ids that no pair has (2^31 and above) stay as they are. */
typedef struct pf_symbols {
    uint32_t *id, *next, *previous, *rank, *best;
    uint32_t count, capacity;
} pf_symbols;

#define PF_SYMBOL_BYTES 20u

void pf_symbols_lay(pf_symbols *s, void *scratch, uint32_t scratch_bytes);

static inline int pf_symbols_add(pf_symbols *s, uint32_t id) {
    if (s->count == s->capacity) return 0;
    s->id[s->count++] = id;
    return 1;
}

/* Merge until no pair is left; the symbols that remain are 0, next[0], next[next[0]], … below count. */
void pf_merge(const pf_pairs *pairs, pf_symbols *s);

#endif
