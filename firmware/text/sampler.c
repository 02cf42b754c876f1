/* Logits to the next token: penalty, temperature, top-k, top-p, min-p, and one draw.
 *
 * What is kept is always the beginning of one order, by score and of equal scores by index, so it is given by a distance and by
 * how many tokens at just that distance are in. A radix search finds both in a few passes over the logits, with 64 bins. */
#include <string.h>

#include "scores.h"

#define BIN_BITS 6

typedef struct kept {
    uint32_t distance; /* nearer tokens are in, */
    int32_t ties;      /* and so many at this distance, the first ones */
} kept;

int32_t pf_sampler_scratch(const pf_sampler_settings *p, int32_t vocabulary) {
    const int is_range = p->raise_multiplier >> 30 == 1u && p->raise_shift >= 1 && p->raise_shift <= 62 &&
                         p->lower_multiplier >> 30 == 1u && p->lower_shift >= 1 && p->lower_shift <= 62;
    if (vocabulary < 1 || vocabulary > PF_MOST_VOCABULARY || !pf_exponent_is_valid(&p->exponent) || p->top_k < 0 ||
        p->top_p < 1 || p->top_p > 0x80000000u || p->near > 0x80000000u || (p->is_penalized != 0 && !is_range)) {
        return PF_ERROR_SETTINGS;
    }
    const int has_bins = !p->greedy && (p->top_k > 0 || p->top_p < 0x80000000u);
    return (has_bins ? 8 * PF_SAMPLER_BINS : 0) + (p->is_penalized ? (vocabulary + 31) / 32 * 4 : 0);
}

int pf_sampler_init(pf_sampler *s, const pf_sampler_settings *settings, int32_t vocabulary, void *scratch, int32_t bytes) {
    const int32_t needed = pf_sampler_scratch(settings, vocabulary);
    if (needed < 0 || bytes < needed) {
        return needed < 0 ? needed : PF_ERROR_SCRATCH;
    }
    memset(s, 0, sizeof *s);
    s->settings = settings;
    s->vocabulary = vocabulary;
    s->random = 109u + settings->seed;
    (void)pf_random_word(&s->random);
    const int32_t words = settings->is_penalized ? (vocabulary + 31) / 32 : 0;
    s->bins = scratch;
    if (words > 0) {
        s->seen = (uint32_t *)scratch + (needed / 4 - words);
        memset(s->seen, 0, 4 * (size_t)words);
    }
    return 0;
}

int pf_sampler_accept(pf_sampler *s, int32_t token) {
    if (token < 0 || token >= s->vocabulary) {
        return PF_ERROR_TOKEN;
    }
    if (s->seen != NULL) {
        s->seen[token >> 5] |= (uint32_t)1 << (token & 31);
    }
    return 0;
}

static int32_t penalized(const pf_sampler_settings *p, int32_t score) {
    const int32_t shift = score > 0 ? p->lower_shift : p->raise_shift;
    const int64_t product = score * (int64_t)(score > 0 ? p->lower_multiplier : p->raise_multiplier);
    const int64_t scaled = (product + ((int64_t)1 << (shift - 1))) >> shift;
    return scaled < -PF_SCORE_LIMIT ? -PF_SCORE_LIMIT : scaled > PF_SCORE_LIMIT ? PF_SCORE_LIMIT : (int32_t)scaled;
}

static int32_t score_of(const pf_sampler *s, const pf_logits *logits, int32_t i) {
    const int32_t score = pf_score(logits, i);
    return s->seen != NULL && (s->seen[i >> 5] >> (i & 31) & 1u) != 0 ? penalized(s->settings, score) : score;
}

static uint32_t distance_of(const pf_sampler *s, const pf_logits *logits, int32_t i) {
    return s->top - (uint32_t)score_of(s, logits, i);
}

static int is_kept(kept *k, uint32_t distance) {
    return distance < k->distance || (distance == k->distance && k->ties-- > 0);
}

/* The kept tokens of `within` until their number, or with `by_mass` their mass, has come to `need`. */
static kept narrowed(const pf_sampler *s, const pf_logits *logits, const kept *within, uint64_t need, int by_mass) {
    const pf_exponent *e = &s->settings->exponent;
    uint64_t before = 0;
    uint32_t low = 0, span = e->reach + 1u;
    int32_t shift = 0;
    while (span >> shift > PF_SAMPLER_BINS - 1) {
        shift++;
    }
    for (;;) {
        kept k = *within;
        memset(s->bins, 0, 8 * PF_SAMPLER_BINS);
        for (int32_t i = 0; i < logits->count; i++) {
            const uint32_t distance = distance_of(s, logits, i);
            if (is_kept(&k, distance) && distance - low < span) {
                s->bins[(distance - low) >> shift] += by_mass ? pf_weight(e, distance) : 1u;
            }
        }
        uint32_t bin = 0;
        while (bin < PF_SAMPLER_BINS - 1 && before + s->bins[bin] < need) {
            before += s->bins[bin++];
        }
        if (before + s->bins[bin] < need) { /* fewer than `need` in all */
            return *within;
        }
        low += bin << shift;
        span = (uint32_t)1 << shift;
        if (shift <= s->grain) {
            break;
        }
        shift = shift > BIN_BITS ? shift - BIN_BITS : 0;
    }
    /* All tokens of the last bin are at one distance, the multiple of 2^grain that lies in it. */
    kept result = {(low + ((uint32_t)1 << s->grain) - 1u) >> s->grain << s->grain, 0};
    const uint64_t one = by_mass ? pf_weight(e, result.distance) : 1u;
    result.ties = (int32_t)((need - before + one - 1u) / one);
    return result;
}

/* Sum of the kept weights; with `is_draw` the token at which the sum passes `limit` instead. */
static uint64_t pass(const pf_sampler *s, const pf_logits *logits, kept k, int is_draw, uint64_t limit) {
    uint64_t sum = 0;
    for (int32_t i = 0; i < logits->count; i++) {
        const uint32_t distance = distance_of(s, logits, i);
        if (is_kept(&k, distance)) {
            sum += pf_weight(&s->settings->exponent, distance);
            if (is_draw && sum > limit) {
                return (uint64_t)i;
            }
        }
    }
    return sum;
}

/* The bits of floats, taken as signed magnitudes, are in the order of the numbers; a NaN counts as minus infinity. */
static int32_t first_largest_float(const pf_logits *logits) {
    int32_t best = 0, largest = INT32_MIN;
    for (int32_t i = 0; i < logits->count; i++) {
        const uint32_t bits = pf_float_bits(logits, i), magnitude = bits & 0x7FFFFFFFu;
        const int32_t is_positive = bits == magnitude && magnitude <= 0x7F800000u;
        const int32_t key = is_positive ? (int32_t)magnitude : magnitude > 0x7F800000u ? -0x7F800000 : -(int32_t)magnitude;
        if (key > largest) {
            best = i;
            largest = key;
        }
    }
    return best;
}

int32_t pf_sample(pf_sampler *s, const pf_logits *logits) {
    const pf_sampler_settings *p = s->settings;
    if (logits->count != s->vocabulary || (logits->is_float != 0) != (p->is_float != 0)) {
        return PF_ERROR_LOGITS;
    }
    if (p->greedy && s->seen == NULL && p->is_float) {
        return first_largest_float(logits);
    }
    int32_t best = 0, largest = score_of(s, logits, 0);
    for (int32_t i = 1; i < logits->count; i++) {
        const int32_t score = score_of(s, logits, i);
        if (score > largest) {
            best = i;
            largest = score;
        }
    }
    if (p->greedy) {
        return best;
    }
    s->top = (uint32_t)largest;
    s->grain = p->is_float || s->seen != NULL ? 0 : PF_INT16_BITS;
    kept k = {p->exponent.reach, INT32_MAX};
    if (p->top_k > 0 && p->top_k < logits->count) {
        k = narrowed(s, logits, &k, (uint64_t)p->top_k, 0);
    }
    uint64_t total = pass(s, logits, k, 0, 0);
    if (p->top_p < 0x80000000u) {
        const uint64_t rest = (total & 0x7FFFFFFFu) * p->top_p + 0x7FFFFFFFu;
        const uint64_t need = (total >> 31) * p->top_p + (rest >> 31);
        k = narrowed(s, logits, &k, need, 1);
        total = pass(s, logits, k, 0, 0);
    }
    if (p->near < k.distance) {
        k.distance = p->near;
        k.ties = INT32_MAX;
        total = pass(s, logits, k, 0, 0);
    }
    return (int32_t)pass(s, logits, k, 1, pf_random_below(&s->random, total));
}
