/* Stop strings in a stream of bytes, by the matcher of Knuth, Morris and Pratt for each string. */
#include <string.h>

#include "picoformer/generate.h"

int pf_stops_init(pf_stops *s, const uint8_t *text, const int32_t *lengths, int32_t count, void *scratch, int32_t bytes) {
    int32_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        if (lengths[i] < 1 || lengths[i] > 0xFFFF - total) {
            return PF_ERROR_SETTINGS;
        }
        total += lengths[i];
    }
    if (count < 0 || count > 0xFFFF || bytes < PF_STOPS_SCRATCH(total, count)) {
        return count < 0 || count > 0xFFFF ? PF_ERROR_SETTINGS : PF_ERROR_SCRATCH;
    }
    s->text = text;
    s->lengths = lengths;
    s->count = count;
    s->borders = scratch;
    s->matched = s->borders + total;
    s->holder = s->held = s->is_complete = 0;
    uint16_t *borders = s->borders;
    for (int32_t i = 0; i < count; i++) { /* of each beginning of a string, the longest part it begins and ends with */
        uint16_t border = 0;
        borders[0] = s->matched[i] = 0;
        for (int32_t j = 1; j < lengths[i]; j++) {
            while (border > 0 && text[border] != text[j]) {
                border = borders[border - 1];
            }
            border = (uint16_t)(border + (text[border] == text[j]));
            borders[j] = border;
        }
        text += lengths[i];
        borders += lengths[i];
    }
    return 0;
}

static const uint8_t *string_at(const pf_stops *s, int32_t index) {
    const uint8_t *text = s->text;
    for (int32_t i = 0; i < index; i++) {
        text += s->lengths[i];
    }
    return text;
}

/* Of the bytes held back and `byte` behind them, let go of all but `keep`. */
static int release(const pf_stops *s, uint8_t byte, int32_t keep, pf_take_text *take, void *user) {
    const int32_t first = s->held < s->held + 1 - keep ? s->held : s->held + 1 - keep;
    int answer = 0;
    if (first > 0) {
        answer |= take(user, string_at(s, s->holder), first);
    }
    return keep == 0 ? answer | take(user, &byte, 1) : answer;
}

int pf_stops_feed(pf_stops *s, const uint8_t *bytes, int32_t count, pf_take_text *take, void *user, int *answer) {
    for (int32_t b = 0; b < count && !s->is_complete; b++) {
        const uint8_t *text = s->text;
        const uint16_t *borders = s->borders;
        int32_t longest = 0, holder = 0;
        for (int32_t i = 0; i < s->count; i++) {
            int32_t matched = s->matched[i];
            while (matched > 0 && text[matched] != bytes[b]) {
                matched = borders[matched - 1];
            }
            matched += text[matched] == bytes[b];
            s->matched[i] = (uint16_t)matched;
            const int is_whole = matched == s->lengths[i];
            if (is_whole ? !s->is_complete || matched > longest : !s->is_complete && matched > longest) {
                longest = matched;
                holder = i;
            }
            s->is_complete |= is_whole;
            text += s->lengths[i];
            borders += s->lengths[i];
        }
        *answer |= release(s, bytes[b], longest, take, user);
        s->holder = holder;
        s->held = s->is_complete ? 0 : longest;
    }
    return s->is_complete;
}

void pf_stops_finish(pf_stops *s, pf_take_text *take, void *user) {
    if (s->held > 0) {
        (void)take(user, string_at(s, s->holder), s->held);
    }
    s->held = 0;
}
