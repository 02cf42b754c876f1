/* What both loops ask of a decoder and of a prompt before they begin. */
#ifndef PICOFORMER_TEXT_PROMPT_H
#define PICOFORMER_TEXT_PROMPT_H

#include "picoformer/generate.h"

static inline int pf_check_prompt(const pf_decoder *d, const int32_t *prompt, int32_t count) {
    if (count < 1 || count > d->context) {
        return PF_ERROR_PROMPT;
    }
    for (int32_t i = 0; i < count; i++) {
        if (prompt[i] < 0 || prompt[i] >= d->vocabulary) {
            return PF_ERROR_TOKEN;
        }
    }
    return 0;
}

/* New tokens at most: the last one needs no place in the context. */
static inline int32_t pf_most_tokens(const pf_decoder *d, int32_t prompt, int32_t max_tokens) {
    const int32_t room = d->context - prompt;
    return room < max_tokens ? room + 1 : max_tokens;
}

static inline int pf_is_among(const int32_t *tokens, int32_t count, int32_t token) {
    for (int32_t i = 0; i < count; i++) {
        if (tokens[i] == token) {
            return 1;
        }
    }
    return 0;
}

#endif
