/* One head of an attention on int16 for SMLAD: elements lose low bits as they are arranged, so that all sums fit 32 bits.
 *
 * Two queries at a time against the keys, which lie arranged by twos in the scratch, once for all queries. */
#include "attention_weights.h"

/* Four elements as pairs of int16, in order; zeros from `count` on. */
typedef struct pf_quad {
    uint32_t first, second;
} pf_quad;

/* pf_narrow of both halves, drop 2 or more: x * 2^(16-drop) + 2^15, of which the high half is kept. */
static inline uint32_t narrow_two(uint32_t word, uint32_t factor) {
    uint32_t low, high;
    __asm__("smlabb %0, %1, %2, %3" : "=r"(low) : "r"(word), "r"(factor), "r"(0x8000));
    __asm__("smlatb %0, %1, %2, %3" : "=r"(high) : "r"(word), "r"(factor), "r"(0x8000));
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(word) : "r"(high), "r"(low));
    return word;
}
static inline uint32_t halve_two(uint32_t word) {
    __asm__("shadd16 %0, %1, %2" : "=r"(word) : "r"(word), "r"(PF_ALL_EQUAL));
    return word;
}

static inline pf_quad pf_load_quad(const int16_t *x, int32_t count, int32_t drop) {
    pf_quad quad;
    if (count >= 4) {
        __builtin_memcpy(&quad.first, x, 4);
        __builtin_memcpy(&quad.second, x + 2, 4);
    } else {
        quad.first = (uint16_t)x[0] | (uint32_t)(count > 1 ? x[1] : 0) << 16;
        quad.second = count > 2 ? (uint16_t)x[2] : 0u;
    }
    if (drop > 1) {
        const uint32_t factor = 0x10000u >> drop;
        quad.first = narrow_two(quad.first, factor);
        quad.second = narrow_two(quad.second, factor);
    } else if (drop == 1) {
        quad.first = halve_two(quad.first);
        quad.second = halve_two(quad.second);
    }
    return quad;
}

static int32_t arrange_whole(const int16_t *v, int32_t stride, int32_t drop, uint32_t *out, int32_t keys) {
    uint32_t *more = out + pair_words(keys);
    const int16_t *second = v + stride, *third = second + stride, *fourth = third + stride;
    const int32_t step = 4 * stride;
    int32_t j = 0;
    for (; j + 4 <= keys; j += 4, out += 4, more += 4) {
        const pf_quad a = pf_load_quad(v, 4, drop), b = pf_load_quad(second, 4, drop);
        const pf_quad c = pf_load_quad(third, 4, drop), d = pf_load_quad(fourth, 4, drop);
        out[0] = low_halves(a.first, b.first), out[1] = low_halves(c.first, d.first);
        out[2] = high_halves(a.first, b.first), out[3] = high_halves(c.first, d.first);
        more[0] = low_halves(a.second, b.second), more[1] = low_halves(c.second, d.second);
        more[2] = high_halves(a.second, b.second), more[3] = high_halves(c.second, d.second);
        v += step, second += step, third += step, fourth += step;
    }
    return j;
}

PF_DEFINE_ARRANGE_VALUES(s16, 1)

/* Two rows side by side. */
__attribute__((noinline)) static void arrange_two(const int16_t *a, const int16_t *b, uint32_t *out, int32_t size, int32_t drop) {
    int32_t i = 0;
    for (; i + 4 <= size; i += 4, out += 4) {
        const pf_quad first = pf_load_quad(a + i, 4, drop), second = pf_load_quad(b + i, 4, drop);
        out[0] = first.first, out[1] = first.second, out[2] = second.first, out[3] = second.second;
    }
    if (i < size) {
        const pf_quad first = pf_load_quad(a + i, size - i, drop), second = pf_load_quad(b + i, size - i, drop);
        out[0] = first.first, out[1] = first.second, out[2] = second.first, out[3] = second.second;
    }
}

/* Leaves the scores of two queries and the largest of each. A pair of keys of which a query sees one only comes last and alone,
 * since a maximum must not know what its query does not see. */
__attribute__((noinline)) static void find_scores(pf_head_work *work, const uint32_t *query, const uint32_t *key, int32_t keys) {
    const int32_t pair = pair_words(work->head->head_size), seen = work->seen[1], is_odd = seen % 2;
    const int32_t alone = seen < keys ? is_odd | (work->seen[0] < seen) : work->seen[0] < seen;
    const int32_t together = (seen + 1) / 2 - alone;
    pf_pairs *const pairs = &work->pairs;
    int32_t *const top = pairs->as.scores.top, *const score = (int32_t *)work->score;
    pairs->w = query;
    pairs->kind = PF_SCORES;
    pf_set_length(pairs, pair);
    pairs->as.scores.out = score;
    top[0] = top[1] = INT32_MIN;
    pairs->a = key;
    pairs->as.scores.key_end = key + together * pair;
    if (together > 0) {
        pf_dsp_pairs(pairs);
    }
    work->top[0] = top[0];
    work->top[1] = top[1];
    if (alone) {
        pairs->as.scores.out = score + 4 * together;
        pairs->a = pairs->as.scores.key_end;
        pairs->as.scores.key_end += pair;
        pf_dsp_pairs(pairs);
        for (int32_t c = 0; c < 2; c++) {
            for (int32_t j = 2 * together; j < work->seen[c]; j++) {
                work->top[c] = score[2 * j + c] > work->top[c] ? score[2 * j + c] : work->top[c];
            }
        }
    }
}

#define DEFINE_HEAD(OUT)                                                                                                         \
    PF_DEFINE_MEANS(OUT)                                                                                                         \
    void pf_attention_head_s16_##OUT(const pf_attention_head *head, const int16_t *q, const int16_t *k, const int16_t *v,        \
                                     PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                        \
        const int32_t size = head->head_size, pair = pair_words(size);                                                           \
        pf_head_work work = {.head = head, .key_words = pair_words(keys)};                                                       \
        uint32_t *const query = (uint32_t *)scratch, *const key = query + pair + 2 * work.key_words;                             \
        work.score = query + pair;                                                                                               \
        work.value = key + (keys + 1) / 2 * pair;                                                                                \
        if (!head->same_keys) {                                                                                                  \
            for (int32_t j = 0; j < keys; j += 2, k += 2 * head->key_stride) {                                                   \
                arrange_two(k, j + 1 < keys ? k + head->key_stride : k, key + j / 2 * pair, size, head->key_drop);               \
            }                                                                                                                    \
            for (int32_t d = 0; d < head->value_size; d += 4) {                                                                  \
                arrange_values(v + d, head->value_stride, head->value_size - d, head->value_drop,                                \
                               work.value + d / 2 * work.key_words, keys);                                                       \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int32_t i = 0; i < queries; i += 2, q += 2 * head->query_stride, y += 2 * head->output_stride) {                    \
            const int32_t second = i + 1 < queries ? 1 : 0;                                                                      \
            work.seen[0] = keys - head->first_keys > i ? head->first_keys + i : keys;                                            \
            work.seen[1] = keys - work.seen[0] > second ? work.seen[0] + second : keys;                                          \
            arrange_two(q, q + second * head->query_stride, query, size, head->query_drop);                                      \
            find_scores(&work, query, key, keys);                                                                                \
            find_weights(&work);                                                                                                 \
            find_means_##OUT(&work, y, y + second * head->output_stride);                                                        \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
