/* One head of an attention on int16: what is multiplied loses low bits first, so that all sums fit 32 bits. */
#include "attention_rows.h"

static int32_t score(const pf_attention_head *head, const int16_t *a, const int16_t *b) {
    const int32_t count = head->head_size, a_drop = head->query_drop, b_drop = head->key_drop;
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += pf_narrow(a[i], a_drop) * pf_narrow(b[i], b_drop);
    }
    return sum;
}

#define VALUE(head, v) pf_narrow(v, (head)->value_drop)

PF_DEFINE_NUMERATORS(s16, score)
PF_DEFINE_HEAD(s16, s8, VALUE)
PF_DEFINE_HEAD(s16, s16, VALUE)
