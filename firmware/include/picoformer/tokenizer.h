/* Text to ids and back, on the device. A tokenizer is generated tables (one constant pf_tokenizer) and the files of
 * firmware/text/ that its kind needs; SPEC.md, "Text", says what they compute.
 *
 * Text is UTF-8 of any content: a NUL is a character like any other, and each maximal part of a broken sequence stands for
 * U+FFFD. It is plain text: names of special tokens inside it are not looked for; whoever wants one writes its id.
 *
 * Nothing is allocated and nothing is kept between calls. All work is in the caller's scratch, and its size bounds the
 * text that can be read; every function answers what it cannot do with a negative number. */
#ifndef PICOFORMER_TOKENIZER_H
#define PICOFORMER_TOKENIZER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PF_TOKENIZER_IDS     (-1) /* more ids than max_ids */
#define PF_TOKENIZER_SCRATCH (-2) /* scratch too small for this text, or not aligned to 8 bytes */
#define PF_TOKENIZER_NO_ID   (-3) /* an id outside the vocabulary */
#define PF_TOKENIZER_BYTES   (-4) /* a token of more than max_bytes bytes */

/* Bits of pf_tokenizer.flags, a byte for each id. */
#define PF_TOKEN_CONTROL   1u /* decodes to nothing: <s>, [CLS] */
#define PF_TOKEN_BYTE      2u /* <0x0A>: stands for one byte */
#define PF_TOKEN_CONTINUES 4u /* WordPiece: ## in front of it */
#define PF_TOKEN_JOINED    8u /* WordPiece: no space before it */

/* How the first token of a text differs when decoded. */
#define PF_DECODE_PLAIN     0u
#define PF_DECODE_STRIP     1u /* the text's first byte goes if it is a space, unless a byte token wrote it */
#define PF_DECODE_STRIP_ANY 2u /* the same, whoever wrote it */
#define PF_DECODE_STRIP_RUN 3u /* a space in front of every token until one wrote something */
#define PF_DECODE_STRIP_ALL 4u /* all spaces of the first token */
#define PF_DECODE_WORDS     5u /* WordPiece: words with spaces between them */

typedef struct pf_tokenizer pf_tokenizer;

/* Positions that grow with their index: entry i is base[i >> shift] + low[i]. */
typedef struct pf_index {
    const uint32_t *base;
    const uint16_t *low;
    uint32_t shift;
} pf_index;

/* Where a piece of text may begin to be another kind of character, ascending: code point | class << 24. */
typedef struct pf_classes {
    const uint32_t *starts;
    uint32_t count;
} pf_classes;

/* The merges of a BPE: those whose left half is token i lie in first[i] .. first[i + 1], by right half, ascending.
 * Elements of right, merged and rank are uint16_t, or uint32_t where `wide`. Smaller ranks go first; without a table of
 * ranks the merged token is its own rank. */
typedef struct pf_pairs {
    pf_index first;
    const void *right, *merged, *rank;
    uint32_t lefts, wide;
} pf_pairs;

/* Ids in the order of their bytes. */
typedef struct pf_sorted {
    const void *ids;
    uint32_t count;
} pf_sorted;

/* Byte-level BPE. */
#define PF_SPLIT_NONE   0u
#define PF_SPLIT_GPT2   1u
#define PF_SPLIT_GPT4   2u
#define PF_SPLIT_RUNS   3u /* a run of class 1 with a space before it, or the run between two of them */
#define PF_CLASS_OTHER  0u
#define PF_CLASS_LETTER 1u
#define PF_CLASS_NUMBER 2u
#define PF_CLASS_SPACE  3u
typedef struct pf_byte_bpe {
    const int32_t *byte_ids; /* 256; negative: the byte is left out */
    pf_pairs pairs;
    pf_classes classes, digits; /* digits.count != 0: every character of its class 1 is a word of its own */
    pf_sorted words;            /* a word that is one of these is not merged */
    uint32_t split, longest_number, prefix_space;
} pf_byte_bpe;

/* SentencePiece: how text becomes characters. Where `escaped`, U+2581 is a space too. */
#define PF_PREFIX_NONE   0u
#define PF_PREFIX_ALWAYS 1u /* a space before every text that is not empty */
#define PF_PREFIX_UNLESS 2u /* the same, unless there is one already */
typedef struct pf_spaces {
    uint32_t prefix, remove_extra, escaped;
    uint32_t split;       /* words begin at spaces and are segmented one by one */
    const uint32_t *trie; /* the normalization map as SentencePiece keeps it, or null */
    uint32_t trie_units;
    const uint8_t *replacements;
    uint32_t replacement_bytes;
} pf_spaces;

/* BPE over characters with SentencePiece's byte fallback, and character tokenizers (no pairs). */
typedef struct pf_piece_bpe {
    pf_spaces spaces;
    const uint32_t *characters; /* ascending code points with a token of their own */
    const void *character_ids;
    uint32_t character_count;
    pf_pairs pairs;
    const int32_t *byte_ids; /* 256, or null */
    int32_t unknown;         /* negative: what has no token is left out */
    uint32_t fuse_unknown;
} pf_piece_bpe;

/* WordPiece behind BERT's normalization and splitting. `characters` tells for each its class, and what becomes of it. */
#define PF_WORD_LETTER      0u
#define PF_WORD_SPACE       1u
#define PF_WORD_PUNCTUATION 2u /* a word of its own */
#define PF_WORD_CLASS       3u /* the mask of these */
#define PF_WORD_DELETED     4u
#define PF_WORD_SPACED      8u /* spaces around it */
#define PF_WORD_MAPPED      16u
#define PF_MAP_DELTA        0u /* the character and a number */
#define PF_MAP_SEQUENCE     1u /* a sequence of characters; the next character has the next sequence */
#define PF_MAP_HANGUL       2u /* its jamo */
typedef struct pf_wordpiece {
    pf_sorted starts, continuations;
    pf_classes characters;
    pf_classes map; /* for what is mapped: PF_MAP_*, and beside each start a number */
    const int32_t *map_values;
    const uint32_t *sequence_characters;
    pf_index sequences;
    pf_classes order; /* combining classes by which neighbours that have one are sorted */
    int32_t unknown;
    uint32_t longest_word; /* in characters */
} pf_wordpiece;

/* Unigram: the segmentation of smallest cost. A cost is minus a score: a float of 32 bits, or with `twice` of 64, as
 * its bit pattern. */
typedef struct pf_unigram {
    pf_spaces spaces;
    pf_sorted pieces;
    const void *costs; /* in the order of `pieces` */
    uint64_t unknown_cost;
    const int32_t *byte_ids; /* 256, or null */
    int32_t unknown;
    uint32_t twice, fuse_unknown;
} pf_unigram;

struct pf_tokenizer {
    int32_t (*encode)(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                      uint64_t *scratch, uint32_t scratch_bytes);
    const void *tables;   /* of the kind: pf_byte_bpe, pf_piece_bpe, … */
    uint32_t size, wide;  /* ids; whether tables of ids are uint32_t */
    const uint8_t *bytes; /* what each id stands for, one behind the other */
    pf_index starts;      /* size + 1 */
    const uint8_t *flags;
    uint32_t decode;
    const int32_t *prefix, *suffix; /* ids that the model expects around a text */
    uint32_t prefix_count, suffix_count;
    uint32_t scratch_fixed, scratch_per_byte; /* for any text */
};

/* The ids of a text: their count, or a negative error, after which ids and scratch hold nothing of use. Nothing beyond
 * max_ids and scratch_bytes is written. scratch is aligned to 8 bytes. Time grows as n log n with the text's length. */
int32_t pf_tokenizer_encode(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                            void *scratch, uint32_t scratch_bytes);

/* The same between the ids that the model expects around a text (bos and eos, [CLS] and [SEP]). */
int32_t pf_tokenizer_encode_sequence(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                                     void *scratch, uint32_t scratch_bytes);

/* Scratch that is enough for every text of so many bytes; 0 where that is more than 32 bits say. Text that is not broken
 * takes a third of it or less. */
uint32_t pf_tokenizer_scratch_bytes(const pf_tokenizer *t, uint32_t bytes);

/* The bytes that the next token adds to a text: their count, or a negative error. A character may come in the bytes of
 * several tokens. *state is 0 before the first token of a text and belongs to this function until its last. */
int32_t pf_tokenizer_decode(const pf_tokenizer *t, int32_t id, uint32_t *state, uint8_t *out, uint32_t max_bytes);

/* The kinds: values of pf_tokenizer.encode. */
int32_t pf_encode_byte_bpe(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                           uint64_t *scratch, uint32_t scratch_bytes);
int32_t pf_encode_piece_bpe(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                            uint64_t *scratch, uint32_t scratch_bytes);
int32_t pf_encode_wordpiece(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                            uint64_t *scratch, uint32_t scratch_bytes);
int32_t pf_encode_unigram(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                          uint64_t *scratch, uint32_t scratch_bytes);

#ifdef __cplusplus
}
#endif

#endif
