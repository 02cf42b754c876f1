/* SentencePiece's normalization: its map (longest match in its own trie), and what happens to spaces. */
#include "spaces.h"

/* The trie's units are those of a compacted double array: a label in the low byte, whether a value hangs below in bit 8,
 * and the distance to the children above. */
static uint32_t children(uint32_t unit) {
    return (unit >> 10) << ((unit & 0x200u) >> 6);
}

/* Read the longest key of the map, or one character, into the chunk. Whether there was one. */
static int next_chunk(pf_spaces_reader *r) {
    const pf_spaces *rules = r->rules;
    pf_reader ahead = r->text, behind = r->text;
    uint32_t value = 0;
    int found = 0;
    if (rules->trie) {
        uint32_t node = children(rules->trie[0]);
        for (int32_t c = pf_read(&ahead); c != PF_END; c = pf_read(&ahead)) {
            uint8_t bytes[PF_UTF8_BYTES];
            const uint32_t count = pf_utf8_put(c, bytes);
            uint32_t i = 0;
            for (; i < count; i++) {
                node ^= bytes[i];
                if (node >= rules->trie_units) break;
                const uint32_t unit = rules->trie[node];
                if ((unit & 0x800000FFu) != bytes[i]) break;
                node ^= children(unit);
                if (node >= rules->trie_units) break;
                if (i + 1u == count && (unit & 0x100u)) {
                    value = rules->trie[node] & 0x7FFFFFFFu;
                    behind = ahead;
                    found = 1;
                }
            }
            if (i < count) break;
        }
    }
    r->chunk_at = r->chunk_end = 0;
    r->character = PF_END;
    if (found && value < rules->replacement_bytes) {
        r->text = behind;
        r->chunk = rules->replacements;
        r->chunk_at = r->chunk_end = value;
        while (r->chunk_end < rules->replacement_bytes && rules->replacements[r->chunk_end]) r->chunk_end++;
        return 1;
    }
    r->character = pf_read(&r->text);
    return r->character != PF_END;
}

/* The chunk's next character, PF_END behind its last. */
static int32_t from_chunk(pf_spaces_reader *r) {
    const int32_t c = r->character;
    r->character = PF_END;
    if (c != PF_END) return c;
    return r->chunk_at < r->chunk_end ? pf_utf8_next(r->chunk, r->chunk_end, &r->chunk_at) : PF_END;
}

static int is_lone_space(const pf_spaces_reader *r) {
    return r->character == ' ' || (r->character == PF_END && r->chunk_end == r->chunk_at + 1u && r->chunk[r->chunk_at] == ' ');
}

void pf_spaces_begin(pf_spaces_reader *r, const pf_spaces *rules, const uint8_t *text, uint32_t bytes) {
    const pf_reader whole = {text, 0, bytes, 0};
    r->rules = rules;
    r->text = whole;
    r->chunk = 0;
    r->chunk_at = r->chunk_end = 0;
    r->character = r->held = PF_END;
    r->spaces = r->pending = 0;
    r->after_space = rules->remove_extra;
    if (rules->remove_extra) { /* spaces at the front, one chunk each */
        for (;;) {
            const pf_reader before = r->text;
            if (!next_chunk(r)) break;
            if (!is_lone_space(r)) {
                r->text = before;
                break;
            }
        }
        r->character = PF_END;
        r->chunk_at = r->chunk_end = 0;
    }
    const int32_t first = pf_peek(&r->text);
    if (first == PF_END || rules->prefix == PF_PREFIX_NONE) return;
    if (rules->prefix == PF_PREFIX_UNLESS && (first == ' ' || (rules->escaped && first == PF_SPACE_SYMBOL))) return;
    r->pending = 1;
    if (!rules->remove_extra) {
        r->spaces = 1;
        r->pending = 0;
    }
}

/* The next character before spaces at the end are known to be such. */
static int32_t next_inner(pf_spaces_reader *r) {
    for (;;) {
        int32_t c = from_chunk(r);
        if (c == PF_END) {
            if (!next_chunk(r)) return PF_END;
            c = from_chunk(r);
            while (r->after_space && c == ' ') c = from_chunk(r);
            if (c == PF_END) continue; /* an empty chunk leaves what the last one set */
        }
        r->after_space = r->rules->remove_extra && c == ' ' && r->character == PF_END && r->chunk_at == r->chunk_end;
        return r->rules->escaped && c == PF_SPACE_SYMBOL ? ' ' : c;
    }
}

int32_t pf_spaces_next(pf_spaces_reader *r) {
    if (r->spaces) {
        r->spaces--;
        return ' ';
    }
    int32_t c = r->held;
    r->held = PF_END;
    if (c != PF_END) return c;
    for (;;) {
        c = next_inner(r);
        if (!r->rules->remove_extra || c == PF_END) return c;
        if (c == ' ') {
            r->pending++;
        } else if (r->pending == 0) {
            return c;
        } else {
            r->held = c;
            r->spaces = r->pending - 1u;
            r->pending = 0;
            return ' ';
        }
    }
}
