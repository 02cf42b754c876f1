/* One head of an attention on int8: all sums in 32 bits. */
#include "attention_rows.h"

static int32_t score(const pf_attention_head *head, const int8_t *a, const int8_t *b) {
    const int32_t count = head->head_size;
    int32_t sum = 0, i = 0;
    for (; i + 4 <= count; i += 4) {
        sum += a[i] * b[i] + a[i + 1] * b[i + 1] + a[i + 2] * b[i + 2] + a[i + 3] * b[i + 3];
    }
    for (; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

#define VALUE(head, v) (v)

PF_DEFINE_NUMERATORS(s8, score)
PF_DEFINE_HEAD(s8, s8, VALUE)
PF_DEFINE_HEAD(s8, s16, VALUE)
