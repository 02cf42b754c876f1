/* Which tokens a text begins with: two binary searches for each byte, and no table but the order of the tokens. */
#include "text_internal.h"

void pf_match_begin(pf_match *m, const pf_sorted *sorted) {
    m->low = 0;
    m->high = sorted->count;
    m->depth = 0;
    m->id = PF_NO_ID;
}

/* The byte of a token behind `depth`, as a number above 0; 0 where it ends. */
static uint32_t byte_at(const pf_tokenizer *t, uint32_t id, uint32_t depth) {
    const uint32_t at = pf_at(&t->starts, id) + depth;
    return at < pf_at(&t->starts, id + 1u) ? t->bytes[at] + 1u : 0u;
}

/* The first place in low .. high whose byte is `byte` or more. */
static uint32_t lower_bound(const pf_tokenizer *t, const pf_sorted *sorted, const pf_match *m, uint32_t low, uint32_t byte) {
    uint32_t high = m->high;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2u;
        if (byte_at(t, pf_word(sorted->ids, t->wide, middle), m->depth) < byte)
            low = middle + 1u;
        else
            high = middle;
    }
    return low;
}

int pf_match_next(const pf_tokenizer *t, const pf_sorted *sorted, pf_match *m, uint8_t byte) {
    m->low = lower_bound(t, sorted, m, m->low, byte + 1u);
    m->high = lower_bound(t, sorted, m, m->low, byte + 2u);
    m->depth++;
    m->id = PF_NO_ID;
    if (m->low == m->high) return 0;
    const uint32_t first = pf_word(sorted->ids, t->wide, m->low);
    if (byte_at(t, first, m->depth) == 0) m->id = first;
    return 1;
}
