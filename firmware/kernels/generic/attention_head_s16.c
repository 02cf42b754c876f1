/* One head of an attention on int16: sums in 64 bits; a score's low bits are dropped so that the rest fits 32. */
#include "attention_rows.h"

static int32_t score(const pf_attention_head *head, const int16_t *a, const int16_t *b) {
    int64_t sum = 0;
    for (int32_t i = 0; i < head->head_size; i++) {
        sum += a[i] * b[i];
    }
    return (int32_t)(sum >> head->score_drop);
}

PF_DEFINE_NUMERATORS(s16, score)
PF_DEFINE_HEAD(s16, s8, int64_t, pf_rescale_wide)
PF_DEFINE_HEAD(s16, s16, int64_t, pf_rescale_wide)
