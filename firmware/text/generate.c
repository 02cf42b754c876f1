/* Prompt in, text out: the loop of greedy and sampled generation. */
#include <string.h>

#include "prompt.h"

/* The bytes of a token to whoever takes the text; what they answered, or an error. */
static int tell_text(const pf_generation *g, int32_t token) {
    const uint8_t *bytes = NULL;
    const int32_t count = g->bytes(g->user, token, &bytes);
    int answer = 0;
    if (count < 0) {
        return PF_ERROR_TOKEN;
    }
    if (g->stops != NULL) {
        (void)pf_stops_feed(g->stops, bytes, count, g->text, g->user, &answer);
    } else if (count > 0) {
        answer = g->text(g->user, bytes, count);
    }
    return answer != 0;
}

int32_t pf_generate(const pf_decoder *decoder, pf_sampler *sampler, const pf_generation *g, const int32_t *prompt, int32_t count,
                    pf_end *end) {
    const int has_text = g->text != NULL, is_valid = has_text == (g->bytes != NULL) && (has_text || g->stops == NULL);
    if (!is_valid || g->max_tokens < 1 || g->max_tokens > PF_LONGEST_TEXT || g->stop_token_count < 0 || decoder->slots < 1 ||
        sampler->vocabulary != decoder->vocabulary) {
        return PF_ERROR_SETTINGS;
    }
    const int status = pf_check_prompt(decoder, prompt, count);
    if (status != 0) {
        return status;
    }
    for (int32_t i = 0; i < count; i++) {
        (void)pf_sampler_accept(sampler, prompt[i]);
    }
    const int32_t most = pf_most_tokens(decoder, count, g->max_tokens);
    int32_t token, made = 0, failed = decoder->decode(decoder->model, 0, prompt, count, 0);
    *end = (pf_end)0;
    while (*end == 0) {
        if (failed != 0) {
            return PF_ERROR_DECODER;
        }
        const pf_logits logits = decoder->logits(decoder->model);
        token = pf_sample(sampler, &logits);
        if (token < 0) {
            return token;
        }
        (void)pf_sampler_accept(sampler, token);
        made++;
        const int is_stop = pf_is_among(g->stop_tokens, g->stop_token_count, token);
        int answer = 0;
        if (has_text && !is_stop) {
            answer = tell_text(g, token);
            if (answer < 0) {
                return answer;
            }
        }
        if (g->emit != NULL && g->emit(g->user, token) != 0) {
            answer = 1;
        }
        if (is_stop) {
            *end = PF_END_STOP_TOKEN;
        } else if (g->stops != NULL && g->stops->is_complete) {
            *end = PF_END_STOP_STRING;
        } else if (answer != 0) {
            *end = PF_END_CALLER;
        } else if (made == most) {
            *end = most == g->max_tokens ? PF_END_MAX_TOKENS : PF_END_CONTEXT;
        } else {
            failed = decoder->decode(decoder->model, 0, &token, 1, count + made - 1);
        }
    }
    if (g->stops != NULL) {
        pf_stops_finish(g->stops, g->text, g->user);
    }
    return made;
}
