/* Unigram: of all ways to cut a text into pieces the cheapest (Viterbi), with the sums of the library that trained it, bit
 * by bit: floating point by integers, so that equal costs and near ones fall as they do there. */
#include "spaces.h"

#define UNKNOWN  PF_NO_ID /* the piece of a position whose last character has none */
#define UNSEEN   (PF_NO_ID - 1u)
#define FRACTION 52u

/* The sum of two floats of 64 bits that are not negative, rounded to nearest, ties to even. */
static uint64_t add_costs(uint64_t a, uint64_t b) {
    if (a < b) {
        const uint64_t swap = a;
        a = b;
        b = swap;
    }
    if (b == 0) return a;
    const uint64_t one = (uint64_t)1 << FRACTION;
    uint64_t exponent = a >> FRACTION, distance = exponent - (b >> FRACTION);
    uint64_t large = ((a & (one - 1u)) | one) << 8, small = ((b & (one - 1u)) | one) << 8;
    if (distance > 61u) distance = 61u;
    large += small >> distance | ((small & (((uint64_t)1 << distance) - 1u)) != 0); /* what is shifted out is remembered */
    if (large >> 61) {
        large = large >> 1 | (large & 1u);
        exponent++;
    }
    const uint64_t rest = large & 0xFFu;
    large >>= 8;
    if (rest > 0x80u || (rest == 0x80u && (large & 1u))) large++;
    return ((exponent - 1u) << FRACTION) + large; /* the leading one counts to the exponent, as does a carry */
}

/* A float of 64 bits rounded to what 32 bits can hold. */
static uint64_t to_single(uint64_t cost) {
    return (cost + 0x0FFFFFFFu + (cost >> 29 & 1u)) & ~(uint64_t)0x1FFFFFFFu;
}

static uint64_t cost_at(const pf_unigram *p, uint32_t place) {
    if (p->twice) return ((const uint64_t *)p->costs)[place];
    const uint64_t bits = ((const uint32_t *)p->costs)[place];
    return bits == 0 ? 0u : (bits << 29) + ((uint64_t)896u << FRACTION);
}

typedef struct pf_paths {
    uint64_t *cost;  /* of the best path to each position; later, where the path goes on */
    uint32_t *piece; /* its last piece: a place among the sorted, UNKNOWN or UNSEEN */
    uint8_t *text;
    uint32_t count, capacity;
} pf_paths;

static uint32_t character_bytes(uint8_t lead) {
    return lead < 0x80u ? 1u : lead < 0xE0u ? 2u : lead < 0xF0u ? 3u : 4u;
}

static uint64_t sum(const pf_unigram *p, uint64_t a, uint64_t b) {
    const uint64_t cost = add_costs(a, b);
    return p->twice ? cost : to_single(cost);
}

/* A path to `end`. Of equal costs the first that was found stays, the one whose last piece is longer. */
static void offer(pf_paths *w, uint32_t end, uint64_t cost, uint32_t piece) {
    if (w->piece[end] != UNSEEN && cost >= w->cost[end]) return;
    w->cost[end] = cost;
    w->piece[end] = piece;
}

static void find_paths(const pf_tokenizer *t, pf_paths *w) {
    const pf_unigram *p = t->tables;
    const uint32_t n = w->count;
    for (uint32_t i = 0; i <= n; i++) w->piece[i] = UNSEEN;
    w->cost[0] = 0;
    for (uint32_t start = 0, length; start < n; start += length) {
        const uint64_t here = w->cost[start];
        int has_character = 0;
        length = character_bytes(w->text[start]);
        pf_match match;
        pf_match_begin(&match, &p->pieces);
        for (uint32_t end = start + 1u; end <= n && pf_match_next(t, &p->pieces, &match, w->text[end - 1u]); end++) {
            if (match.id == PF_NO_ID) continue;
            offer(w, end, sum(p, here, cost_at(p, match.low)), match.low);
            if (end - start == length) has_character = 1;
        }
        if (!has_character) offer(w, start + length, sum(p, here, p->unknown_cost), UNKNOWN);
    }
}

/* Where the last piece of the best path to `end` begins. */
static uint32_t piece_start(const pf_tokenizer *t, const pf_paths *w, uint32_t end) {
    const pf_unigram *p = t->tables;
    if (w->piece[end] == UNKNOWN) {
        do end--;
        while ((w->text[end] & 0xC0u) == 0x80u);
        return end;
    }
    const uint32_t id = pf_word(p->pieces.ids, t->wide, w->piece[end]);
    return end - (pf_at(&t->starts, id + 1u) - pf_at(&t->starts, id));
}

static int32_t put_unknown(const pf_unigram *p, const pf_paths *w, uint32_t start, uint32_t end, int after_unknown, pf_ids *ids) {
    if (!p->byte_ids) return (p->fuse_unknown && after_unknown) || pf_put(ids, p->unknown) ? 0 : PF_TOKENIZER_IDS;
    uint8_t bytes[PF_UTF8_BYTES];
    const uint32_t count = pf_spaces_put(&p->spaces, pf_utf8_next(w->text, end, &start), bytes);
    for (uint32_t i = 0; i < count; i++)
        if (!pf_put(ids, p->byte_ids[bytes[i]])) return PF_TOKENIZER_IDS;
    return 0;
}

static int32_t flush(const pf_tokenizer *t, pf_paths *w, pf_ids *ids) {
    const pf_unigram *p = t->tables;
    const uint32_t n = w->count;
    int after_unknown = 0;
    if (n == 0) return 0;
    find_paths(t, w);
    for (uint32_t end = n; end != 0;) {
        const uint32_t start = piece_start(t, w, end);
        w->cost[start] = end;
        end = start;
    }
    for (uint32_t start = 0, end; start < n; start = end) {
        end = (uint32_t)w->cost[start];
        const uint32_t place = w->piece[end];
        const int32_t id = place == UNKNOWN ? p->unknown : (int32_t)pf_word(p->pieces.ids, t->wide, place);
        int32_t error = 0;
        if (place == UNKNOWN)
            error = put_unknown(p, w, start, end, after_unknown, ids);
        else if (id != p->unknown || !p->fuse_unknown || !after_unknown)
            error = pf_put(ids, id) ? 0 : PF_TOKENIZER_IDS;
        if (error) return error;
        after_unknown = id == p->unknown;
    }
    w->count = 0;
    return 0;
}

int32_t pf_encode_unigram(const pf_tokenizer *t, const uint8_t *text, uint32_t bytes, int32_t *ids, uint32_t max_ids,
                          uint64_t *scratch, uint32_t scratch_bytes) {
    const pf_unigram *p = t->tables;
    if (scratch_bytes < 12u) return PF_TOKENIZER_SCRATCH;
    pf_paths w;
    w.capacity = (scratch_bytes - 12u) / 13u; /* bytes of normalized text: one position more */
    w.count = 0;
    w.cost = scratch;
    void *pieces = scratch + w.capacity + 1u;
    w.piece = pieces;
    void *written = w.piece + w.capacity + 1u;
    w.text = written;
    pf_ids out = {ids, 0, max_ids};
    pf_spaces_reader r;
    int32_t error;

    pf_spaces_begin(&r, &p->spaces, text, bytes);
    for (int32_t c = pf_spaces_next(&r); c != PF_END; c = pf_spaces_next(&r)) {
        if (p->spaces.split && c == ' ') {
            error = flush(t, &w, &out);
            if (error) return error;
        }
        uint8_t character[PF_UTF8_BYTES];
        const uint32_t count = pf_utf8_put(c, character);
        if (count > w.capacity - w.count) return PF_TOKENIZER_SCRATCH;
        for (uint32_t i = 0; i < count; i++) w.text[w.count++] = character[i];
    }
    error = flush(t, &w, &out);
    return error ? error : (int32_t)out.count;
}
