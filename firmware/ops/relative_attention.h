/* Which keys a row of a relative attention sees, and in which bucket each of them is. */
#ifndef PF_RELATIVE_ATTENTION_H
#define PF_RELATIVE_ATTENTION_H

#include "picoformer/ops.h"
#include "picoformer/ops_relative.h"

/* Whether all rows have a place. */
static inline int pf_has_places(int32_t causal, int32_t positions, int32_t number, int32_t rows) {
    return !causal || (number >= 0 && rows <= positions && number <= positions - rows);
}

/* How many keys the row that stands at `place` sees. */
static inline int32_t pf_keys_seen(int32_t causal, int32_t positions, int32_t number, int32_t place) {
    if (causal) {
        return place + 1;
    }
    return number < 0 ? 0 : number > positions ? positions : number;
}

/* The index of a distance among the buckets; a causal row sees no key behind its own. */
static inline int32_t pf_distance_index(int32_t distance, int32_t reach) {
    return (distance < -reach ? -reach : distance > reach ? reach : distance) + reach;
}

#endif
