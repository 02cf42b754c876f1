/* Text as SentencePiece normalizes it, a character at a time. */
#ifndef PICOFORMER_SPACES_H
#define PICOFORMER_SPACES_H

#include "text_internal.h"

#define PF_SPACE_SYMBOL 0x2581 /* what SentencePiece writes for a space */

typedef struct pf_spaces_reader {
    const pf_spaces *rules;
    pf_reader text;
    const uint8_t *chunk; /* what stands for the characters read last, where the map has them */
    uint32_t chunk_at, chunk_end;
    int32_t character; /* else the character itself, or PF_END */
    int32_t held;      /* read ahead: comes after `spaces` spaces */
    uint32_t spaces, pending;
    uint32_t after_space; /* SentencePiece's is_prev_space */
} pf_spaces_reader;

void pf_spaces_begin(pf_spaces_reader *r, const pf_spaces *rules, const uint8_t *text, uint32_t bytes);

/* The next character, spaces as ' '; PF_END behind the last. */
int32_t pf_spaces_next(pf_spaces_reader *r);

/* The bytes of a character as SentencePiece has it, where a space is U+2581. */
static inline uint32_t pf_spaces_put(const pf_spaces *rules, int32_t character, uint8_t *out) {
    return pf_utf8_put(rules->escaped && character == ' ' ? PF_SPACE_SYMBOL : character, out);
}

#endif
