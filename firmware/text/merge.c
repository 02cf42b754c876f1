/* The merges of a BPE, in n log n: the pair of smallest rank is always at the root of a tournament over all positions. */
#include "text_internal.h"

void pf_symbols_lay(pf_symbols *s, void *scratch, uint32_t scratch_bytes) {
    uint32_t *words = scratch;
    const uint32_t n = scratch_bytes / PF_SYMBOL_BYTES;
    s->id = words;
    s->next = words + n;
    s->previous = words + 2u * n;
    s->rank = words + 3u * n;
    s->best = words + 4u * n;
    s->count = 0;
    s->capacity = n;
}

/* The place of a pair among the merges; 0 is a place too, so absence has a value of its own. */
static uint32_t find_pair(const pf_pairs *pairs, uint32_t left, uint32_t right) {
    if (left >= pairs->lefts) return PF_NO_RANK;
    uint32_t low = pf_at(&pairs->first, left);
    const uint32_t end = pf_at(&pairs->first, left + 1u);
    uint32_t high = end;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2u;
        if (pf_word(pairs->right, pairs->wide, middle) < right)
            low = middle + 1u;
        else
            high = middle;
    }
    return low < end && pf_word(pairs->right, pairs->wide, low) == right ? low : PF_NO_RANK;
}

/* The rank of the symbol at i and its right neighbour. */
static uint32_t rank_at(const pf_pairs *pairs, const pf_symbols *s, uint32_t i) {
    if (s->next[i] == s->count) return PF_NO_RANK;
    const uint32_t pair = find_pair(pairs, s->id[i], s->id[s->next[i]]);
    if (pair == PF_NO_RANK) return PF_NO_RANK;
    return pf_word(pairs->rank ? pairs->rank : pairs->merged, pairs->wide, pair);
}

/* Play the match of node i again: of its two sides the smaller rank wins, of equal ones the left position. */
static uint32_t winner(const pf_symbols *s, uint32_t i) {
    const uint32_t n = s->count;
    const uint32_t a = 2u * i < n ? s->best[2u * i] : 2u * i - n;
    const uint32_t b = 2u * i + 1u < n ? s->best[2u * i + 1u] : 2u * i + 1u - n;
    if (s->rank[a] != s->rank[b]) return s->rank[a] < s->rank[b] ? a : b;
    return a < b ? a : b;
}

static void update(const pf_pairs *pairs, pf_symbols *s, uint32_t i, int exists) {
    s->rank[i] = exists ? rank_at(pairs, s, i) : PF_NO_RANK;
    for (uint32_t node = (s->count + i) / 2u; node != 0; node /= 2u) {
        const uint32_t now = winner(s, node);
        if (now == s->best[node] && now != i) return; /* above it nothing changes */
        s->best[node] = now;
    }
}

void pf_merge(const pf_pairs *pairs, pf_symbols *s) {
    const uint32_t n = s->count;
    for (uint32_t i = 0; i < n; i++) {
        s->next[i] = i + 1u;
        s->previous[i] = i - 1u; /* of the first: never used */
    }
    if (n < 2u || pairs->lefts == 0) return;
    for (uint32_t i = 0; i < n; i++) s->rank[i] = rank_at(pairs, s, i);
    for (uint32_t node = n - 1u; node != 0; node--) s->best[node] = winner(s, node);

    for (;;) {
        const uint32_t i = s->best[1];
        if (s->rank[i] == PF_NO_RANK) return;
        const uint32_t gone = s->next[i];
        s->id[i] = pf_word(pairs->merged, pairs->wide, find_pair(pairs, s->id[i], s->id[gone]));
        s->next[i] = s->next[gone];
        if (s->next[i] != n) s->previous[s->next[i]] = i;
        update(pairs, s, gone, 0);
        update(pairs, s, i, 1);
        if (i != 0) update(pairs, s, s->previous[i], 1);
    }
}
