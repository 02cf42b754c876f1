/* One head of an attention on int8 for SMLAD: two queries at a time against the keys they see, then their weights against the
 * values.
 *
 * Keys, and values transposed, are widened into the scratch once per head. The scores of two queries lie as the products leave
 * them, key by key in pairs; the numerators replace them in quad layout, so that they are one side of the second product. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "products.h"

/* How a distance becomes an index: its product with the multiplier, the rounded high word. Not is_fast: the shift is not 32, or
 * a distance may pass 31 bits. */
typedef struct exponential {
    const uint16_t *table;
    int32_t multiplier, shift, is_fast;
} exponential;

static inline uint32_t numerator(const exponential *e, int32_t top, int32_t score) {
    const uint32_t distance = (uint32_t)top - (uint32_t)score;
    uint32_t index;
    __asm__("smmulr %0, %1, %2\n usat %0, #10, %0" : "=&r"(index) : "r"(distance), "r"(e->multiplier));
    return e->table[index];
}

/* low half of a, low half of b above it */
static inline uint32_t pack(uint32_t a, uint32_t b) {
    uint32_t result;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

/* `keys` values of two elements of the value rows into quad layout; `second` is 0 where there is no second element. */
__attribute__((noinline)) static void widen_columns(const int8_t *v, int32_t second, int32_t stride, uint32_t *out,
                                                    int32_t keys) {
    for (int32_t j = 0; j < keys; j += 4, out += 4) {
        int32_t a[4] = {0}, b[4] = {0};
        const int32_t group = keys - j < 4 ? keys - j : 4;
        for (int32_t c = 0; c < group; c++, v += stride) {
            a[c] = v[0];
            b[c] = v[second];
        }
        out[0] = pack((uint32_t)a[0], (uint32_t)a[2]);
        out[1] = pack((uint32_t)a[1], (uint32_t)a[3]);
        out[2] = pack((uint32_t)b[0], (uint32_t)b[2]);
        out[3] = pack((uint32_t)b[1], (uint32_t)b[3]);
    }
}

/* min(1023, (distance * multiplier + 2^(shift-1)) >> shift) */
static uint32_t exact_index(const exponential *e, uint32_t distance) {
    const int64_t index = pf_rounding_shift((int64_t)distance * e->multiplier, e->shift);
    return index < (int64_t)PF_EXP_ENTRIES ? (uint32_t)index : PF_EXP_ENTRIES - 1u;
}

/* Scores of two queries, [key pair][key][query], to numerators in quad layout in the same place, zeros behind the last key;
 * leaves the sums of the numerators. */
__attribute__((noinline)) static void numerators(const exponential *e, int32_t *scores, int32_t keys, uint32_t total[2]) {
    int32_t top0 = scores[0], top1 = scores[1];
    for (int32_t j = 1; j < keys % 4; j++) {
        top0 = scores[2 * j] > top0 ? scores[2 * j] : top0;
        top1 = scores[2 * j + 1] > top1 ? scores[2 * j + 1] : top1;
    }
    for (const int32_t *s = scores + keys % 4 * 2; s != scores + 2 * keys; s += 8) {
        top0 = s[0] > top0 ? s[0] : top0;
        top1 = s[1] > top1 ? s[1] : top1;
        top0 = s[2] > top0 ? s[2] : top0;
        top1 = s[3] > top1 ? s[3] : top1;
        top0 = s[4] > top0 ? s[4] : top0;
        top1 = s[5] > top1 ? s[5] : top1;
        top0 = s[6] > top0 ? s[6] : top0;
        top1 = s[7] > top1 ? s[7] : top1;
    }
    exponential own = *e;
    if (!own.is_fast) { /* scores whose distance is four times the index, and a factor of a quarter */
        for (int32_t i = 0; i < 2 * keys; i++) {
            const uint32_t top = (uint32_t)((i & 1) != 0 ? top1 : top0);
            scores[i] = (int32_t)(top - 4u * exact_index(e, top - (uint32_t)scores[i]));
        }
        own.multiplier = (int32_t)1 << 30;
    }
    uint32_t *out = (uint32_t *)scores;
    uint32_t sum0 = 0, sum1 = 0;
    int32_t j = 0;
    for (; j + 4 <= keys; j += 4, scores += 8, out += 4) {
        const uint32_t a0 = numerator(&own, top0, scores[0]), b0 = numerator(&own, top1, scores[1]);
        const uint32_t a1 = numerator(&own, top0, scores[2]), b1 = numerator(&own, top1, scores[3]);
        const uint32_t a2 = numerator(&own, top0, scores[4]), b2 = numerator(&own, top1, scores[5]);
        const uint32_t a3 = numerator(&own, top0, scores[6]), b3 = numerator(&own, top1, scores[7]);
        sum0 += a0 + a1 + a2 + a3;
        sum1 += b0 + b1 + b2 + b3;
        out[0] = pack(a0, a2);
        out[1] = pack(a1, a3);
        out[2] = pack(b0, b2);
        out[3] = pack(b1, b3);
    }
    if (j < keys) {
        uint32_t a[4] = {0}, b[4] = {0};
        for (int32_t c = 0; c < keys - j; c++) {
            a[c] = numerator(&own, top0, scores[2 * c]);
            b[c] = numerator(&own, top1, scores[2 * c + 1]);
            sum0 += a[c];
            sum1 += b[c];
        }
        out[0] = pack(a[0], a[2]);
        out[1] = pack(a[1], a[3]);
        out[2] = pack(b[0], b[2]);
        out[3] = pack(b[1], b[3]);
    }
    total[0] = sum0;
    total[1] = sum1;
}

/* Scores of two queries as above, the first of which does not see the last key: that key's numerator is zero. Before the
 * numerators are made it takes another score of its query, so that the maximum stays. */
static void hide_last(int32_t *scores, int32_t last) {
    scores[2 * last] = scores[0];
}
static void drop_last(uint32_t *numerators, int32_t last, uint32_t *total) {
    uint32_t *const word = numerators + last / 4 * 4 + (last & 1);
    const int32_t half = (last & 2) * 8;
    *total -= *word >> half & 0xFFFFu;
    *word &= 0xFFFF0000u >> half;
}

#define SSAT_s8  "ssat %0, #8, %1"
#define SSAT_s16 "ssat %0, #16, %1"
/* One query's means: (sum * multiplier + 2^(shift-1)) >> shift, clamped; from shift 33 on only the high word matters. */
#define DEFINE_MEANS(OUT)                                                                                                        \
    __attribute__((noinline)) static void means_##OUT(const int32_t *sums, pf_factor f, PF_TYPE_##OUT *y, int32_t size) {        \
        if (f.shift > 32) {                                                                                                      \
            const int32_t half = (int32_t)1 << (f.shift - 33), shift = f.shift - 32;                                             \
            for (int32_t d = 0; d < size; d++) {                                                                                 \
                int32_t mean;                                                                                                    \
                __asm__("smmla %0, %1, %2, %3" : "=r"(mean) : "r"(sums[2 * d]), "r"(f.multiplier), "r"(half));                   \
                mean >>= shift;                                                                                                  \
                __asm__(SSAT_##OUT : "=r"(mean) : "r"(mean));                                                                    \
                y[d] = (PF_TYPE_##OUT)mean;                                                                                      \
            }                                                                                                                    \
            return;                                                                                                              \
        }                                                                                                                        \
        for (int32_t d = 0; d < size; d++) {                                                                                     \
            const int64_t mean = pf_rounding_shift((int64_t)sums[2 * d] * f.multiplier, f.shift);                                \
            y[d] = PF_SATURATE(OUT, mean);                                                                                       \
        }                                                                                                                        \
    }
DEFINE_MEANS(s8)
DEFINE_MEANS(s16)

/* The distance of two scores is at most head_size * 2^15. */
static int32_t is_fast(const pf_attention_head *head) {
    return head->score_shift == 32 && head->head_size < 1 << 16;
}

#define DEFINE_HEAD(OUT)                                                                                                         \
    void pf_attention_head_s8_##OUT(const pf_attention_head *head, const int8_t *q, const int8_t *k, const int8_t *v,            \
                                    PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                         \
        const int32_t size = head->value_size, stride = head->value_stride, first = head->first_keys;                            \
        const int32_t head_words = quad_words(head->head_size), key_words = quad_words(keys);                                    \
        const int32_t value_pairs = (size + 1) / 2;                                                                              \
        uint32_t *const query = (uint32_t *)scratch, *const key = query + head_words;                                            \
        uint32_t *const value = key + (keys + 1) / 2 * head_words, *const score = value + value_pairs * key_words;               \
        int32_t *const sums = (int32_t *)score + 2 * key_words;                                                                  \
        if (!head->same_keys) {                                                                                                  \
            widen_rows(k, head->key_stride, key, keys, head->head_size);                                                         \
            for (int32_t d = 0; d < value_pairs; d++) {                                                                          \
                widen_columns(v + 2 * d, 2 * d + 1 < size ? 1 : 0, stride, value + d * key_words, keys);                         \
            }                                                                                                                    \
        }                                                                                                                        \
        const exponential e = {head->table, head->score_multiplier, head->score_shift, is_fast(head)};                           \
        pf_products scores = {key, query, key, value, 0u, quad_skip(head_words), (int32_t *)score};                              \
        pf_products means = {value, score, score, score, 0u, 0u, sums};                                                          \
        for (int32_t i = 0; i < queries; i += 2) {                                                                               \
            uint32_t total[2];                                                                                                   \
            const int32_t second = i + 1 < queries ? 1 : 0;                                                                      \
            const int32_t seen = keys - first > i + second ? first + i + second : keys;                                          \
            const int32_t hidden = second && keys - first > i, words = quad_words(seen);                                         \
            scores.a_end = key + (seen + 1) / 2 * head_words;                                                                    \
            means.w_end = score + words;                                                                                         \
            means.skip = quad_skip(words);                                                                                       \
            means.gap = (uint32_t)(key_words - words) * sizeof *key;                                                             \
            widen_two(q, q + second * head->query_stride, query, head->head_size);                                               \
            pf_dsp_products(&scores);                                                                                            \
            if (hidden) {                                                                                                        \
                hide_last((int32_t *)score, seen - 1);                                                                           \
            }                                                                                                                    \
            numerators(&e, (int32_t *)score, seen, total);                                                                       \
            if (hidden) {                                                                                                        \
                drop_last(score, seen - 1, total);                                                                               \
            }                                                                                                                    \
            pf_dsp_products(&means);                                                                                             \
            for (int32_t c = 0; c <= second; c++, y += head->output_stride) {                                                    \
                const pf_factor f = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total[c]);                  \
                means_##OUT(sums + c, f, y, size);                                                                               \
            }                                                                                                                    \
            q += 2 * head->query_stride;                                                                                         \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
