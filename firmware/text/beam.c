/* Beam search on integer log-probabilities. A text is kept as its last token and the beam it continues, a word for each step. */
#include <string.h>

#include "prompt.h"
#include "scores.h"

#define LOWEST     (-((int64_t)1 << 46))
#define TOKEN_BITS 24
#define TOKEN_MASK 0xFFFFFFu

/* The candidate among `list`, which is in order and has room for `most`; those of equal score stand as they came. */
static int32_t inserted(pf_candidate *list, int32_t count, int32_t most, pf_candidate c) {
    int32_t at = count < most ? count : most - 1;
    if (count == most && list[at].score >= c.score) {
        return count;
    }
    while (at > 0 && list[at - 1].score < c.score) {
        list[at] = list[at - 1];
        at--;
    }
    list[at] = c;
    return count < most ? count + 1 : most;
}

/* Enter the continuations of one running beam, whose logits these are. */
static void add_candidates(pf_beam *b, int32_t beam, int32_t most, const pf_logits *logits) {
    const pf_beam_settings *p = b->settings;
    const int64_t score = b->running[beam].score;
    int32_t top = pf_score(logits, 0);
    for (int32_t i = 1; i < logits->count; i++) {
        const int32_t own = pf_score(logits, i);
        top = own > top ? own : top;
    }
    uint64_t total = 0;
    for (int32_t i = 0; i < logits->count; i++) {
        total += pf_weight(&p->exponent, (uint32_t)top - (uint32_t)pf_score(logits, i));
    }
    const int64_t base = pf_log_of_sum(total);
    for (int32_t i = 0; i < logits->count; i++) {
        const uint64_t distance = (uint32_t)top - (uint32_t)pf_score(logits, i);
        const int64_t below =
            (int64_t)((distance * p->grid_multiplier + ((uint64_t)1 << (p->grid_shift - 1))) >> p->grid_shift) + base;
        const pf_candidate c = {score - below > LOWEST ? score - below : LOWEST, beam, i};
        b->candidate_count = inserted(b->candidates, b->candidate_count, most, c);
    }
}

static void finish(pf_beam *b, const pf_candidate *c, int32_t length) {
    const pf_beam_settings *p = b->settings;
    const int64_t score = pf_normalize(c->score, length, p->length_penalty);
    int32_t at = b->finished_count < p->beams ? b->finished_count++ : p->beams - 1;
    if (at == p->beams - 1 && b->finished[at].length != 0 && b->finished[at].score >= score) {
        return;
    }
    while (at > 0 && b->finished[at - 1].score < score) {
        b->finished[at] = b->finished[at - 1];
        at--;
    }
    const pf_finished_text text = {score, length, c->beam, c->token};
    b->finished[at] = text;
}

/* Whether no running text, the best of which scores `best` after `length` tokens, is worth going on. */
static int is_over(const pf_beam *b, int64_t best, int32_t length, int32_t most) {
    const pf_beam_settings *p = b->settings;
    if (b->finished_count < p->beams) {
        return 0;
    }
    const int is_far = p->early_stopping == 2 && p->length_penalty > 0;
    return p->early_stopping == 1 ||
           pf_normalize(best, is_far ? most : length, p->length_penalty) <= b->finished[p->beams - 1].score;
}

/* A slot for each beam that goes on: the first child of a beam keeps its slot, the others copy it to the lowest free one. */
static void give_slots(pf_beam *b, const pf_decoder *decoder, const pf_candidate *chosen, int32_t length) {
    const int32_t beams = b->settings->beams;
    uint64_t kept = 0, taken = 0;
    for (int32_t j = 0; j < beams; j++) {
        kept |= (uint64_t)1 << b->running[chosen[j].beam].slot;
    }
    for (int32_t j = 0; j < beams; j++) {
        const pf_candidate c = chosen[j];
        int32_t slot = b->running[c.beam].slot;
        if ((taken >> c.beam & 1u) != 0) {
            int32_t unused = 0;
            while ((kept >> unused & 1u) != 0) {
                unused++;
            }
            decoder->copy_state(decoder->model, slot, unused);
            kept |= (uint64_t)1 << unused;
            slot = unused;
        }
        taken |= (uint64_t)1 << c.beam;
        const pf_running_beam next = {c.score, slot, c.token};
        b->next[j] = next;
        b->nodes[(length - 1) * beams + j] = (uint32_t)c.beam << TOKEN_BITS | (uint32_t)c.token;
    }
    pf_running_beam *old = b->running;
    b->running = b->next;
    b->next = old;
    b->running_count = beams;
}

static int begin(pf_beam *b, const pf_beam_settings *p, const pf_decoder *d, void *scratch, int32_t bytes) {
    const int is_grid = p->grid_multiplier >> 30 == 1u && p->grid_shift >= 1 && p->grid_shift <= 62;
    const int is_search = p->beams >= 1 && p->beams <= PF_MOST_BEAMS && p->early_stopping >= 0 && p->early_stopping <= 2 &&
                          p->length_penalty >= -(1 << 26) && p->length_penalty <= 1 << 26;
    if (!is_grid || !is_search || !pf_exponent_is_valid(&p->exponent) || p->max_tokens < 1 || p->max_tokens > PF_LONGEST_TEXT ||
        p->stop_token_count < 0 || p->stop_token_count > 255 || d->slots < p->beams || d->vocabulary > PF_MOST_VOCABULARY) {
        return PF_ERROR_SETTINGS;
    }
    const int32_t candidates = PF_BEAM_CANDIDATES(p->beams, p->stop_token_count);
    if (candidates > d->vocabulary) {
        return PF_ERROR_VOCABULARY;
    }
    if (bytes < PF_BEAM_SCRATCH(p->beams, p->max_tokens, p->stop_token_count)) {
        return PF_ERROR_SCRATCH;
    }
    memset(b, 0, sizeof *b);
    b->settings = p;
    b->candidates = scratch;
    b->running = (pf_running_beam *)(b->candidates + candidates);
    b->next = b->running + p->beams;
    b->finished = (pf_finished_text *)(b->next + p->beams);
    b->nodes = (uint32_t *)(b->finished + p->beams);
    memset(b->running, 0, sizeof *b->running);
    memset(b->finished, 0, (size_t)p->beams * sizeof *b->finished);
    b->running_count = 1;
    return candidates;
}

int32_t pf_beam_search(pf_beam *b, const pf_beam_settings *settings, const pf_decoder *decoder, const int32_t *prompt,
                       int32_t count, void *scratch, int32_t bytes) {
    const int32_t candidates = begin(b, settings, decoder, scratch, bytes);
    const int32_t status = candidates < 0 ? candidates : pf_check_prompt(decoder, prompt, count);
    if (status != 0) {
        return status;
    }
    const int32_t most = pf_most_tokens(decoder, count, settings->max_tokens), beams = settings->beams;
    for (int32_t length = 1;; length++) {
        b->candidate_count = 0;
        for (int32_t j = 0; j < b->running_count; j++) {
            const pf_running_beam *r = b->running + j;
            const int32_t failed = length == 1 ? decoder->decode(decoder->model, 0, prompt, count, 0)
                                               : decoder->decode(decoder->model, r->slot, &r->token, 1, count + length - 2);
            if (failed != 0) {
                return PF_ERROR_DECODER;
            }
            const pf_logits logits = decoder->logits(decoder->model);
            if (logits.count != decoder->vocabulary || (logits.is_float != 0) != (settings->is_float != 0)) {
                return PF_ERROR_LOGITS;
            }
            add_candidates(b, j, candidates, &logits);
        }
        int32_t going_on = 0;
        for (int32_t i = 0; i < candidates; i++) {
            const pf_candidate c = b->candidates[i];
            if (length < most && !pf_is_among(settings->stop_tokens, settings->stop_token_count, c.token)) {
                b->candidates[going_on++] = c;
            } else if (i < beams) {
                finish(b, &c, length);
            }
        }
        if (length == most || is_over(b, b->candidates[0].score, length, most)) {
            return b->finished_count;
        }
        give_slots(b, decoder, b->candidates, length);
    }
}

void pf_beam_text(const pf_beam *b, int32_t rank, int32_t *tokens) {
    const pf_finished_text *text = b->finished + rank;
    const int32_t beams = b->settings->beams;
    int32_t parent = text->parent;
    tokens[text->length - 1] = text->token;
    for (int32_t length = text->length - 1; length > 0; length--) {
        const uint32_t node = b->nodes[(length - 1) * beams + parent];
        tokens[length - 1] = (int32_t)(node & TOKEN_MASK);
        parent = (int32_t)(node >> TOKEN_BITS);
    }
}
