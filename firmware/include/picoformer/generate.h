/* Logits to text: greedy, sampled and beam search, stop tokens and stop strings, in integers that are the same on host and
 * device. firmware/SPEC.md states what each computes; the settings' integers are worked out on the host
 * (picoformer.generation). Nothing here allocates: scratch is the caller's, aligned to 8 bytes, its size by the macros below. */
#ifndef PICOFORMER_GENERATE_H
#define PICOFORMER_GENERATE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Errors; every function that returns int or a count gives one of these, negative. */
#define PF_ERROR_SETTINGS   (-16) /* a setting is out of its range, or does not go with this decoder */
#define PF_ERROR_SCRATCH    (-17) /* scratch is too small */
#define PF_ERROR_PROMPT     (-18) /* the prompt is empty or longer than the context */
#define PF_ERROR_TOKEN      (-19) /* a token is outside the vocabulary */
#define PF_ERROR_LOGITS     (-20) /* logits are of another kind or count than settings or vocabulary say */
#define PF_ERROR_DECODER    (-21) /* the decoder failed */
#define PF_ERROR_VOCABULARY (-22) /* beam search wants more candidates than there are tokens */

#define PF_MOST_VOCABULARY (1 << 24)
#define PF_LONGEST_TEXT    65536
#define PF_MOST_BEAMS      64

/* The logits of one position: int16_t or float. */
typedef struct pf_logits {
    const void *values;
    int32_t count;
    int32_t is_float;
} pf_logits;

/* Distances to the largest score to weights: x = (d * multiplier + 2^(shift-1)) >> shift counts in 2^-17 octaves. */
typedef struct pf_exponent {
    uint32_t multiplier; /* 2^30 .. 2^31 - 1 */
    int32_t shift;       /* 1 .. 62 */
    uint32_t reach;      /* what is farther weighs nothing */
} pf_exponent;

/* ---- Sampling ---- */

typedef struct pf_sampler_settings {
    pf_exponent exponent;      /* with the temperature in it */
    uint32_t raise_multiplier; /* the repetition penalty, 2^30 .. 2^31 - 1, its shift 1 .. 62 */
    int32_t raise_shift;
    uint32_t lower_multiplier; /* its reciprocal */
    int32_t lower_shift;
    int32_t is_penalized; /* 0: no penalty */
    int32_t top_k;        /* 0: all */
    uint32_t top_p;       /* 1 .. 2^31, in 2^-31; 2^31: all */
    uint32_t near;        /* what is farther from the largest score is left out (min_p); 2^31: nothing */
    int32_t greedy;
    int32_t is_float; /* made for float logits */
    uint64_t seed;
} pf_sampler_settings;

/* Bytes that serve any settings, and those that given settings need (0 .. PF_SAMPLER_SCRATCH), or an error. */
#define PF_SAMPLER_BINS                64
#define PF_SAMPLER_SCRATCH(VOCABULARY) (8 * PF_SAMPLER_BINS + ((VOCABULARY) + 31) / 32 * 4)
int32_t pf_sampler_scratch(const pf_sampler_settings *settings, int32_t vocabulary);

typedef struct pf_sampler {
    const pf_sampler_settings *settings;
    uint64_t random; /* the generator's state */
    uint64_t *bins;  /* masses or counts while a threshold is looked for */
    uint32_t *seen;  /* a bit for each token of prompt and text; NULL where nobody asks */
    int32_t vocabulary;
    uint32_t top;  /* of the last logits: their largest score */
    int32_t grain; /* of the last logits: low bits that no distance has */
} pf_sampler;

/* Begin a text: the seed's first state, nothing seen. */
int pf_sampler_init(pf_sampler *s, const pf_sampler_settings *settings, int32_t vocabulary, void *scratch, int32_t bytes);
/* Tell it a token of the prompt or the text. */
int pf_sampler_accept(pf_sampler *s, int32_t token);
/* The next token, which is not accepted yet, or an error. */
int32_t pf_sample(pf_sampler *s, const pf_logits *logits);

/* ---- Stop strings ---- */

/* A matcher over bytes. Bytes that may begin a stop string are held back, which takes no memory: they are the beginning of it. */
typedef struct pf_stops {
    const uint8_t *text;    /* the strings, one behind the other */
    const int32_t *lengths; /* of each, 1 at least */
    int32_t count;
    uint16_t *borders; /* scratch: one for each byte of text */
    uint16_t *matched; /* scratch: one for each string */
    int32_t holder;    /* the string whose beginning is held back */
    int32_t held;      /* bytes of it */
    int32_t is_complete;
} pf_stops;

/* TOTAL: bytes of all strings together, at most 65,535. */
#define PF_STOPS_SCRATCH(TOTAL, COUNT) (((TOTAL) + (COUNT)) * 2)

/* Take bytes of text that are certain; nonzero ends the text. */
typedef int pf_take_text(void *user, const uint8_t *bytes, int32_t count);

int pf_stops_init(pf_stops *s, const uint8_t *text, const int32_t *lengths, int32_t count, void *scratch, int32_t bytes);
/* Feed bytes; what becomes certain goes to `take`. 1 once a string is complete, then nothing more is taken; 0 otherwise;
 * what `take` answered in *answer, OR-ed. */
int pf_stops_feed(pf_stops *s, const uint8_t *bytes, int32_t count, pf_take_text *take, void *user, int *answer);
/* Let go of what is held back, when the text ends for another reason. */
void pf_stops_finish(pf_stops *s, pf_take_text *take, void *user);

/* ---- Generation ---- */

/* The model: tokens in, logits of the last one out. Slots 0 .. slots - 1 hold states of their own. */
typedef struct pf_decoder {
    void *model;
    /* Feed `count` tokens from `position` on; 0 or a negative error. */
    int (*decode)(void *model, int32_t slot, const int32_t *tokens, int32_t count, int32_t position);
    pf_logits (*logits)(void *model); /* behind the last token decoded, until the next call of decode */
    void (*copy_state)(void *model, int32_t from, int32_t to);
    int32_t slots;
    int32_t context;
    int32_t vocabulary;
} pf_decoder;

/* Why a text ended. */
typedef enum pf_end {
    PF_END_MAX_TOKENS = 1,
    PF_END_STOP_TOKEN = 2,
    PF_END_STOP_STRING = 3,
    PF_END_CALLER = 4, /* emit or text answered nonzero */
    PF_END_CONTEXT = 5 /* the context is full */
} pf_end;

typedef struct pf_generation {
    int32_t max_tokens; /* 1 .. PF_LONGEST_TEXT */
    const int32_t *stop_tokens;
    int32_t stop_token_count;
    int (*emit)(void *user, int32_t token); /* each new token, a stop token too; nonzero ends the text; may be NULL */
    /* Text, where it is asked for: the bytes of a token, and who takes those that are certain. Both or neither. A stop token
     * has none. A negative count ends with PF_ERROR_TOKEN. */
    int32_t (*bytes)(void *user, int32_t token, const uint8_t **bytes);
    pf_take_text *text;
    pf_stops *stops; /* begun with pf_stops_init; NULL without stop strings */
    void *user;
} pf_generation;

/* Continue a prompt with a sampler that pf_sampler_init has begun: new tokens (the stop token included), or an error. */
int32_t pf_generate(const pf_decoder *decoder, pf_sampler *sampler, const pf_generation *g, const int32_t *prompt, int32_t count,
                    pf_end *end);

/* ---- Beam search ---- */

typedef struct pf_beam_settings {
    pf_exponent exponent;     /* at temperature 1 */
    uint32_t grid_multiplier; /* distances to 2^-24 nats, 2^30 .. 2^31 - 1 */
    int32_t grid_shift;       /* 1 .. 62 */
    int32_t length_penalty;   /* in 2^-24, at most 2^26 in magnitude */
    int32_t beams;            /* 1 .. PF_MOST_BEAMS */
    int32_t early_stopping;   /* 0 false, 1 true, 2 never */
    int32_t max_tokens;       /* 1 .. PF_LONGEST_TEXT */
    const int32_t *stop_tokens;
    int32_t stop_token_count; /* 0 .. 255 */
    int32_t is_float;
} pf_beam_settings;

typedef struct pf_candidate {
    int64_t score;
    int32_t beam, token;
} pf_candidate;
typedef struct pf_running_beam {
    int64_t score;
    int32_t slot, token;
} pf_running_beam;
typedef struct pf_finished_text {
    int64_t score; /* in 2^-24 nats, divided by length^length_penalty */
    int32_t length;
    int32_t parent; /* the beam it continues, */
    int32_t token;  /* with this token */
} pf_finished_text;

#define PF_BEAM_CANDIDATES(BEAMS, STOP_TOKENS) ((BEAMS) * ((STOP_TOKENS) > 1 ? 1 + (STOP_TOKENS) : 2))
/* Scratch, with max_tokens as the settings have it: candidates, two sets of beams, finished texts, and a word for each beam
 * and token. */
#define PF_BEAM_SCRATCH(BEAMS, MAX_TOKENS, STOP_TOKENS)                                                                          \
    (PF_BEAM_CANDIDATES(BEAMS, STOP_TOKENS) * (int32_t)sizeof(pf_candidate) +                                                    \
     (BEAMS) * ((int32_t)(2 * sizeof(pf_running_beam) + sizeof(pf_finished_text)) + 4 * (MAX_TOKENS)))

typedef struct pf_beam {
    const pf_beam_settings *settings;
    pf_candidate *candidates;
    pf_running_beam *running, *next;
    pf_finished_text *finished; /* the best first */
    uint32_t *nodes;            /* nodes[length * beams + beam]: the beam's last token, and in the high byte whose child it is */
    int32_t candidate_count, running_count, finished_count;
} pf_beam;

/* The settings' number of texts in b->finished, or an error. */
int32_t pf_beam_search(pf_beam *b, const pf_beam_settings *settings, const pf_decoder *decoder, const int32_t *prompt,
                       int32_t count, void *scratch, int32_t bytes);
/* Write the b->finished[rank].length tokens of a text. */
void pf_beam_text(const pf_beam *b, int32_t rank, int32_t *tokens);

/* For tests and for comparing hosts with devices: what the functions above are made of. */
uint32_t pf_random_word(uint64_t *state);
uint64_t pf_random_below(uint64_t *state, uint64_t limit);
uint32_t pf_weight(const pf_exponent *e, uint32_t distance);
int64_t pf_log2(uint64_t value);
uint32_t pf_power2(uint32_t fraction);
int64_t pf_log_of_sum(uint64_t total);
int64_t pf_normalize(int64_t score, int32_t length, int32_t length_penalty);

#ifdef __cplusplus
}
#endif

#endif
