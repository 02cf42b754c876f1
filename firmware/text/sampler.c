/* Logits to the next token: penalty, temperature, top-k, top-p, min-p, and one draw.
 *
 * What is kept is always the beginning of one order, by score and of equal scores by index, so it is given by a distance and by
 * how many tokens at just that distance are in. A radix search finds both in a few passes over the logits, with 64 bins; where
 * the 64 best tokens are enough, which is the rule, a list of them in the same place does it in one. */
#include <string.h>

#include "scores.h"

#define BIN_BITS 6

typedef struct kept {
    uint32_t distance; /* nearer tokens are in, */
    int32_t ties;      /* and so many at this distance, the first ones */
} kept;

typedef struct ranked { /* as large as a bin, whose place it takes */
    int32_t score, index;
} ranked;

static int has_bins(const pf_sampler_settings *p) {
    return !p->greedy && (p->top_k > 0 || p->top_p < 0x80000000u);
}

int32_t pf_sampler_scratch(const pf_sampler_settings *p, int32_t vocabulary) {
    const int is_range = p->raise_multiplier >> 30 == 1u && p->raise_shift >= 1 && p->raise_shift <= 62 &&
                         p->lower_multiplier >> 30 == 1u && p->lower_shift >= 1 && p->lower_shift <= 62;
    if (vocabulary < 1 || vocabulary > PF_MOST_VOCABULARY || !pf_exponent_is_valid(&p->exponent) || p->top_k < 0 ||
        p->top_p < 1 || p->top_p > 0x80000000u || p->near > 0x80000000u || (p->is_penalized != 0 && !is_range)) {
        return PF_ERROR_SETTINGS;
    }
    return (has_bins(p) ? 8 * PF_SAMPLER_BINS : 0) + (p->is_penalized ? (vocabulary + 31) / 32 * 4 : 0);
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
    s->bins = has_bins(settings) ? scratch : NULL;
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

/* The next token from `i` on whose score is above `score`; their number where there is none. */
static int32_t next_above(const pf_sampler *s, const pf_logits *logits, int32_t i, int32_t score) {
    if (logits->is_float || s->seen != NULL) {
        while (i < logits->count && score_of(s, logits, i) <= score) {
            i++;
        }
        return i;
    }
    const int16_t *values = logits->values;
    const int32_t value = score >> PF_INT16_BITS;
    while (i < logits->count && values[i] <= value) {
        i++;
    }
    return i;
}

static int32_t first_largest(const pf_sampler *s, const pf_logits *logits) {
    int32_t best = 0;
    for (int32_t i = 0; i < logits->count; i = next_above(s, logits, i + 1, score_of(s, logits, best))) {
        best = i;
    }
    return best;
}

/* The `room` best tokens in their order, or all where there are fewer; their number. */
static int32_t list_best(const pf_sampler *s, const pf_logits *logits, ranked *list, int32_t room) {
    int32_t count = 0;
    for (int32_t i = 0; i < logits->count; i++) {
        if (count == room) {
            i = next_above(s, logits, i, list[room - 1].score);
            if (i == logits->count) {
                break;
            }
        }
        const ranked own = {score_of(s, logits, i), i};
        int32_t at = count < room ? count++ : room - 1;
        for (; at > 0 && list[at - 1].score < own.score; at--) {
            list[at] = list[at - 1];
        }
        list[at] = own;
    }
    return count;
}

static uint64_t listed_weight(const pf_sampler *s, const ranked *r) {
    return pf_weight(&s->settings->exponent, s->top - (uint32_t)r->score);
}

/* Of the list, brought into the order of indices, the token at which the sum of weights passes `limit`. */
static int32_t drawn_from(const pf_sampler *s, ranked *list, int32_t count, uint64_t limit) {
    for (int32_t i = 1; i < count; i++) {
        const ranked own = list[i];
        int32_t at = i;
        for (; at > 0 && list[at - 1].index > own.index; at--) {
            list[at] = list[at - 1];
        }
        list[at] = own;
    }
    int32_t i = 0;
    for (uint64_t sum = listed_weight(s, list); sum <= limit; sum += listed_weight(s, list + i)) {
        i++;
    }
    return list[i].index;
}

/* The weight that top_p keeps of `total`, rounded up. */
static uint64_t needed_mass(const pf_sampler_settings *p, uint64_t total) {
    const uint64_t rest = (total & 0x7FFFFFFFu) * p->top_p + 0x7FFFFFFFu;
    return (total >> 31) * p->top_p + (rest >> 31);
}

/* Most often all that is kept is among the 64 best, and then one pass finds them. 1 if so: the token is drawn then. */
static int draw_from_best(pf_sampler *s, const pf_logits *logits, int32_t *token) {
    const pf_sampler_settings *p = s->settings;
    ranked *list = (ranked *)(void *)s->bins;
    const int is_short = p->top_k > 0 && p->top_k <= PF_SAMPLER_BINS;
    int32_t count = list_best(s, logits, list, is_short ? p->top_k : PF_SAMPLER_BINS);
    int is_whole = is_short || count == logits->count;
    s->top = (uint32_t)list[0].score;
    while (s->top - (uint32_t)list[count - 1].score > p->exponent.reach) {
        count--;
        is_whole = 1;
    }
    if (!is_whole && (p->top_k > 0 || p->top_p == 0x80000000u)) {
        return 0;
    }
    uint64_t total = 0;
    if (is_whole) {
        for (int32_t i = 0; i < count; i++) {
            total += listed_weight(s, list + i);
        }
    } else {
        const kept all = {p->exponent.reach, INT32_MAX};
        total = pass(s, logits, all, 0, 0);
    }
    const uint64_t need = p->top_p < 0x80000000u ? needed_mass(p, total) : total;
    uint64_t mass = 0;
    int32_t used = 0;
    while (used < count && mass < need) {
        mass += listed_weight(s, list + used++);
    }
    if (mass < need) {
        return 0;
    }
    while (s->top - (uint32_t)list[used - 1].score > p->near) {
        mass -= listed_weight(s, list + --used);
    }
    *token = drawn_from(s, list, used, pf_random_below(&s->random, mass));
    return 1;
}

int32_t pf_sample(pf_sampler *s, const pf_logits *logits) {
    const pf_sampler_settings *p = s->settings;
    if (logits->count != s->vocabulary || (logits->is_float != 0) != (p->is_float != 0)) {
        return PF_ERROR_LOGITS;
    }
    if (p->greedy) {
        return s->seen == NULL && p->is_float ? first_largest_float(logits) : first_largest(s, logits);
    }
    int32_t token;
    if (s->bins == NULL) {
        s->top = (uint32_t)score_of(s, logits, first_largest(s, logits));
    } else if (draw_from_best(s, logits, &token)) {
        return token;
    }
    s->grain = p->is_float || s->seen != NULL ? 0 : PF_INT16_BITS;
    kept k = {p->exponent.reach, INT32_MAX};
    if (p->top_k > 0 && p->top_k < logits->count) {
        k = narrowed(s, logits, &k, (uint64_t)p->top_k, 0);
    }
    uint64_t total = pass(s, logits, k, 0, 0);
    if (p->top_p < 0x80000000u) {
        k = narrowed(s, logits, &k, needed_mass(p, total), 1);
        total = pass(s, logits, k, 0, 0);
    }
    if (p->near < k.distance) {
        k.distance = p->near;
        k.ties = INT32_MAX;
        total = pass(s, logits, k, 0, 0);
    }
    return (int32_t)pass(s, logits, k, 1, pf_random_below(&s->random, total));
}
