/* One head of an attention for SMLAD, for any pair of types: two queries at a time against the keys they see, then their
 * weights against the values.
 *
 * Everything multiplied lies in words of two int16, two vectors a and b side by side, zeros or repetitions up to a multiple of
 * four elements: a-word, a-word, b-word, b-word, then the next four elements. Keys lie so by twos (scratch, once per head), and
 * values by twos of their columns; how four elements spread over two words is the business of pf_load_quad, the same for
 * queries and keys. The scores of two queries lie as the products leave them, key by key; the numerators replace them in the
 * layout above, so that they are one side of the second product. */
#ifndef PF_DSP_ATTENTION_PAIRS_H
#define PF_DSP_ATTENTION_PAIRS_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#define PF_ALL_EQUAL 0x00010001u

/* Words of two vectors side by side. */
static inline int32_t pair_words(int32_t count) {
    return (count + 3) / 4 * 4;
}

/* Low half of a, low half of b above it; high half of b above the high half of a. */
static inline uint32_t low_halves(uint32_t a, uint32_t b) {
    uint32_t result;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(a), "r"(b));
    return result;
}
static inline uint32_t high_halves(uint32_t a, uint32_t b) {
    uint32_t result;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(result) : "r"(b), "r"(a));
    return result;
}

/* What pf_dsp_pairs works on: the vectors at w (two of them, w to w_end) with each pair of vectors from a to a_end. In C:
 *     do {
 *         s[4] = {0};
 *         for (w = ...; w != w_end; w += 4, a += 4)
 *             s[0] += w0 . a0, s[1] += w1 . a0, s[2] += w0 . a1, s[3] += w1 . a1 over four elements;
 *         as SCORES: out[0..3] = s, out += 4; top[0] = max(top[0], s[0], s[2]), top[1] = max(top[1], s[1], s[3]);
 *         as MEANS: (s * multiplier + half * 2^32) >> 32 >> shift, clamped, of w0 to y0[0..1] and of w1 to y1[0..1], y0 += 2,
 *         y1 += 2; a += gap bytes;
 *     } while (a != a_end);
 * The inner loop is unrolled 16 times behind its first turn; `skip` bytes of that are left out at first, so that any length
 * comes out even, and vectors of more than 17 words by 4 (`is_long`) come back. */
enum { PF_SCORES, PF_MEANS_s8, PF_MEANS_s16 };

typedef struct pf_rescaling {
    int32_t multiplier, half, shift;
} pf_rescaling;
typedef struct pf_pairs {
    const uint32_t *w;
    union {
        struct {
            int32_t *out;
            const uint32_t *key_end;
            int32_t top[2];
        } scores;
        struct {
            pf_rescaling by[2];
            void *y[2];
        } means;
    } as;
    uint32_t skip, is_long;
    const uint32_t *w_end;
    uint32_t kind, gap;
    const uint32_t *a_end, *a;
} pf_pairs;

static void pf_set_length(pf_pairs *work, int32_t words) {
    const uint32_t more = (uint32_t)words / 4u - 1u, rest = more % 16u;
    work->skip = more != 0u && rest == 0u ? 0u : (16u - rest) * 40u;
    work->is_long = more > 16u;
    work->w_end = work->w + words;
}

/* r0: w, r1: a; sums in r10, r11 (first of a), r12, lr (second). At sp lies a copy of the struct, whose skip, is_long and kind
 * became where the body is entered, where it is left, and what comes then. */
__attribute__((naked, noinline)) static void pf_dsp_pairs(pf_pairs *work __attribute__((unused))) {
    __asm__ volatile(" push {r0, r4-r11, lr}\n"
                     " ldr r1, [r0, #60]\n"
                     " add r2, r0, #36\n"
                     " ldmia r2, {r4-r9}\n" /* skip, is_long, w_end, kind, gap, a_end */
                     " adr.w r2, 2f\n"
                     " add r4, r4, r2\n"
                     " adr.w r3, 5f\n"
                     " cmp r7, #1\n"
                     " it eq\n"
                     " addeq r3, r3, #(6f - 5f)\n"
                     " it hi\n"
                     " addhi r3, r3, #(7f - 5f)\n"
                     " orr r7, r3, #1\n"
                     " orr r4, r4, #1\n"
                     " cmp r5, #0\n"
                     " adr.w r3, 3f\n"
                     " ite ne\n"
                     " orrne r5, r3, #1\n"
                     " moveq r5, r7\n"
                     " push {r4-r9}\n"
                     " ldmia r0, {r2-r10}\n"
                     " push {r2-r10}\n"
                     " mov r0, r2\n"
                     "1: ldmia.w r0!, {r2-r5}\n"
                     " ldmia.w r1!, {r6-r9}\n"
                     " smuad r10, r2, r6\n smuad r11, r4, r6\n smuad r12, r2, r8\n smuad lr, r4, r8\n"
                     " smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n smlad r12, r3, r9, r12\n smlad lr, r5, r9, lr\n"
                     " ldr.w pc, [sp, #36]\n"
                     "2:\n .rept 16\n"
                     " ldmia.w r0!, {r2-r5}\n ldmia.w r1!, {r6-r9}\n"
                     " smlad r10, r2, r6, r10\n smlad r11, r4, r6, r11\n smlad r12, r2, r8, r12\n smlad lr, r4, r8, lr\n"
                     " smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n smlad r12, r3, r9, r12\n smlad lr, r5, r9, lr\n"
                     " .endr\n"
                     " ldr.w pc, [sp, #40]\n"
                     "3: ldr r2, [sp, #44]\n"
                     " cmp r0, r2\n"
                     " bne 2b\n"
                     " ldr.w pc, [sp, #48]\n"
                     /* scores: the largest of each query is kept where the struct has it */
                     " .balign 4\n"
                     "5: ldm.w sp, {r0, r2-r5}\n"
                     " stmia.w r2!, {r10, r11, r12, lr}\n"
                     " str r2, [sp, #4]\n"
                     " cmp r10, r4\n bgt 10f\n"
                     "11: cmp r11, r5\n bgt 12f\n"
                     "13: cmp r12, r4\n bgt 14f\n"
                     "15: cmp lr, r5\n bgt 16f\n"
                     "17: cmp r1, r3\n"
                     " bne.w 1b\n"
                     " ldrd r4, r5, [sp, #12]\n"
                     " ldr r0, [sp, #60]\n"
                     " strd r4, r5, [r0, #12]\n"
                     " b 8f\n"
                     "10: mov r4, r10\n str r4, [sp, #12]\n b 11b\n"
                     "12: mov r5, r11\n str r5, [sp, #16]\n b 13b\n"
                     "14: mov r4, r12\n str r4, [sp, #12]\n b 15b\n"
                     "16: mov r5, lr\n str r5, [sp, #16]\n b 17b\n"
                     " .macro PF_MEANS bits, store, step\n"
                     " ldm.w sp, {r0, r2-r9}\n" /* w; multiplier, half, shift of each; y0, y1 */
                     " smmla r10, r10, r2, r3\n smmla r12, r12, r2, r3\n smmla r11, r11, r5, r6\n smmla lr, lr, r5, r6\n"
                     " asr.w r10, r10, r4\n asr.w r12, r12, r4\n asr.w r11, r11, r7\n asr.w lr, lr, r7\n"
                     " ssat r10, #\\bits, r10\n ssat r12, #\\bits, r12\n ssat r11, #\\bits, r11\n ssat lr, #\\bits, lr\n"
                     " \\store r10, [r8], #\\step\n \\store r12, [r8], #\\step\n"
                     " \\store r11, [r9], #\\step\n \\store lr, [r9], #\\step\n"
                     " strd r8, r9, [sp, #28]\n"
                     " ldrd r2, r3, [sp, #52]\n"
                     " add r1, r1, r2\n"
                     " cmp r1, r3\n"
                     " bne.w 1b\n"
                     " .endm\n"
                     " .balign 4\n"
                     "6: PF_MEANS 8, strb, 1\n"
                     " b 8f\n"
                     " .balign 4\n"
                     "7: PF_MEANS 16, strh, 2\n"
                     " .purgem PF_MEANS\n"
                     "8: add sp, #60\n"
                     " pop {r0, r4-r11, pc}\n");
}

/* Scores of two queries to numerators, four keys (eight scores) at a time, in C:
 *     for (; scores != end; scores += 8, out += 4)
 *         out <- table[usat(rounded high word of (top - score) * multiplier, 10 bits)] of each, two to a word; */
typedef struct pf_numerators {
    int32_t *scores, *end;
    int32_t top[2];
    int32_t multiplier;
    const uint16_t *table;
} pf_numerators;

__attribute__((naked, noinline)) static void pf_dsp_numerators(const pf_numerators *work __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " ldmia r0, {r1, r2, r10, r11, r12, lr}\n"
                     " push {r2}\n"
                     " mov r0, r1\n"
                     " .macro PF_NUMERATOR score, top\n"
                     " sub \\score, \\top, \\score\n"
                     " smmulr \\score, \\score, r12\n"
                     " usat \\score, #10, \\score\n"
                     " ldrh.w \\score, [lr, \\score, lsl #1]\n"
                     " .endm\n"
                     "1: ldmia.w r0!, {r2-r9}\n"
                     " PF_NUMERATOR r2, r10\n PF_NUMERATOR r3, r11\n PF_NUMERATOR r4, r10\n PF_NUMERATOR r5, r11\n"
                     " PF_NUMERATOR r6, r10\n PF_NUMERATOR r7, r11\n PF_NUMERATOR r8, r10\n PF_NUMERATOR r9, r11\n"
                     " .purgem PF_NUMERATOR\n"
                     " pkhbt r2, r2, r4, lsl #16\n"
                     " pkhbt r4, r6, r8, lsl #16\n"
                     " pkhbt r6, r3, r5, lsl #16\n"
                     " pkhbt r8, r7, r9, lsl #16\n"
                     " stmia.w r1!, {r2, r4, r6, r8}\n"
                     " ldr r2, [sp]\n"
                     " cmp r0, r2\n"
                     " bne 1b\n"
                     " pop {r2, r4-r11, pc}\n");
}

/* The same where the shift is not 32 or a distance may pass 31 bits. */
static void slow_numerators(const pf_numerators *work, int32_t shift) {
    uint16_t *out = (uint16_t *)work->scores;
    for (const int32_t *s = work->scores; s != work->end; s += 8, out += 8) {
        uint32_t p[8];
        for (int32_t i = 0; i < 8; i++) {
            const uint32_t distance = (uint32_t)work->top[i & 1] - (uint32_t)s[i];
            p[(i & 1) * 4 + i / 2] = pf_numerator(work->table, distance, (uint32_t)work->multiplier, shift);
        }
        for (int32_t i = 0; i < 8; i++) {
            out[i] = (uint16_t)p[i];
        }
    }
}

/* Sums of the numerators of two queries. */
static inline uint32_t add_two(uint32_t sum, uint32_t pair) {
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(pair), "r"(PF_ALL_EQUAL));
    return sum;
}
static inline void find_totals(const uint32_t *p, const uint32_t *end, uint32_t total[2]) {
    uint32_t first = 0, second = 0;
    do {
        first = add_two(add_two(first, p[0]), p[1]);
        second = add_two(add_two(second, p[2]), p[3]);
        p += 4;
    } while (p != end);
    total[0] = first;
    total[1] = second;
}

/* No part of a weighted sum of key `j` for query c. */
static inline void leave_out(uint32_t *p, int32_t j, int32_t c) {
    ((uint16_t *)p)[j / 4 * 8 + c * 4 + j % 4] = 0;
}

/* A mean with a shift of 32 or less, which takes a result far finer than the values; two columns of values. */
static int64_t slow_mean(const uint32_t *value, const uint32_t *p, int32_t words, pf_factor f) {
    const int16_t *a = (const int16_t *)value, *w = (const int16_t *)p;
    int32_t sum = 0;
    for (int32_t i = 0; i < 2 * words; i += 8, a += 8, w += 8) {
        sum += a[0] * w[0] + a[1] * w[1] + a[2] * w[2] + a[3] * w[3];
    }
    return pf_rounding_shift((int64_t)sum * f.multiplier, f.shift);
}

/* Values, four columns by four keys at a time, into pairs of columns; a group of fewer keys repeats the last one, whose
 * numerators are zero then. BETWEEN: where the high halves of pf_load_quad's first word belong, before or behind the low
 * halves of the second. */
#define PF_DEFINE_ARRANGE_VALUES(IN, HIGH_FIRST)                                                                                 \
    __attribute__((noinline)) static void arrange_values(const PF_TYPE_##IN *v, int32_t stride, int32_t count, int32_t drop,     \
                                                         uint32_t *out, int32_t keys) {                                          \
        uint32_t *more = out + pair_words(keys);                                                                                 \
        for (int32_t j = 0; j < keys; j += 4, out += 4, more += 4) {                                                             \
            const PF_TYPE_##IN *second = v + (j + 1 < keys ? stride : 0), *third = second + (j + 2 < keys ? stride : 0);         \
            const PF_TYPE_##IN *fourth = third + (j + 3 < keys ? stride : 0);                                                    \
            const pf_quad a = pf_load_quad(v, count, drop), b = pf_load_quad(second, count, drop);                               \
            const pf_quad c = pf_load_quad(third, count, drop), d = pf_load_quad(fourth, count, drop);                           \
            uint32_t *const high = HIGH_FIRST ? out + 2 : more, *const low = HIGH_FIRST ? more : out + 2;                        \
            out[0] = low_halves(a.first, b.first);                                                                               \
            out[1] = low_halves(c.first, d.first);                                                                               \
            high[0] = high_halves(a.first, b.first);                                                                             \
            high[1] = high_halves(c.first, d.first);                                                                             \
            low[0] = low_halves(a.second, b.second);                                                                             \
            low[1] = low_halves(c.second, d.second);                                                                             \
            more[2] = high_halves(a.second, b.second);                                                                           \
            more[3] = high_halves(c.second, d.second);                                                                           \
            v = fourth + stride;                                                                                                 \
        }                                                                                                                        \
    }

#define PF_DEFINE_ARRANGE_ROWS(IN)                                                                                               \
    static inline void arrange_two(const PF_TYPE_##IN *a, const PF_TYPE_##IN *b, uint32_t *out, int32_t size, int32_t drop) {    \
        for (int32_t i = 0; i < size; i += 4, out += 4) {                                                                        \
            const pf_quad first = pf_load_quad(a + i, size - i, drop), second = pf_load_quad(b + i, size - i, drop);             \
            out[0] = first.first;                                                                                                \
            out[1] = first.second;                                                                                               \
            out[2] = second.first;                                                                                               \
            out[3] = second.second;                                                                                              \
        }                                                                                                                        \
    }                                                                                                                            \
    __attribute__((noinline)) static void arrange_rows(const PF_TYPE_##IN *x, int32_t stride, uint32_t *out, int32_t count,      \
                                                       int32_t size, int32_t drop) {                                             \
        for (int32_t r = 0; r < count; r += 2, x += 2 * stride, out += pair_words(size)) {                                       \
            arrange_two(x, r + 1 < count ? x + stride : x, out, size, drop);                                                     \
        }                                                                                                                        \
    }

/* Leaves the numerators of two queries at `score` and their sums. Of the `seen` keys the first query may not see the last one
 * (`hidden`), and the next key may lie beside the last: then that pair of keys comes alone, since a maximum must not know what
 * its query does not see. */
static void find_weights(const pf_attention_head *head, pf_pairs *pairs, const uint32_t *key, int32_t pair, uint32_t *score,
                         int32_t seen, int32_t hidden, int32_t is_last_single, uint32_t total[2]) {
    pf_numerators work = {
        (int32_t *)score, (int32_t *)score + pair_words(seen) * 2, {INT32_MIN, INT32_MIN}, head->score_multiplier, head->table};
    const int32_t is_odd = seen % 2, alone = hidden || is_last_single, together = (seen + 1) / 2 - alone;
    int32_t *const top = pairs->as.scores.top;
    pairs->as.scores.out = work.scores;
    top[0] = top[1] = INT32_MIN;
    pairs->a = key;
    pairs->as.scores.key_end = key + together * pair;
    if (together > 0) {
        pf_dsp_pairs(pairs);
    }
    work.top[0] = top[0];
    work.top[1] = top[1];
    if (alone) {
        int32_t *const last = work.scores + 4 * together;
        pairs->as.scores.out = last;
        pairs->a = pairs->as.scores.key_end;
        pairs->as.scores.key_end += pair;
        pf_dsp_pairs(pairs);
        if (!(hidden && is_odd)) {
            work.top[0] = last[0] > work.top[0] ? last[0] : work.top[0];
        }
        for (int32_t i = 1; i <= 3 - 2 * is_odd; i += 2) {
            work.top[1] = last[i] > work.top[1] ? last[i] : work.top[1];
        }
    }
    const int32_t limit = (int32_t)1 << 30; /* no score is below -limit */
    if (head->score_shift == 32 && head->head_size < 1 << 16 && work.top[0] < limit && work.top[1] < limit) {
        pf_dsp_numerators(&work);
    } else {
        slow_numerators(&work, head->score_shift);
    }
    for (int32_t j = seen; j < pair_words(seen); j++) {
        leave_out(score, j, 0);
        leave_out(score, j, 1);
    }
    if (hidden) {
        leave_out(score, seen - 1, 0);
    }
    find_totals(score, score + pair_words(seen), total);
}

#define PF_DEFINE_HEAD(IN, OUT)                                                                                                  \
    void pf_attention_head_##IN##_##OUT(const pf_attention_head *head, const PF_TYPE_##IN *q, const PF_TYPE_##IN *k,             \
                                        const PF_TYPE_##IN *v, PF_TYPE_##OUT *y, int32_t queries, int32_t keys,                  \
                                        int32_t *scratch) {                                                                      \
        const int32_t size = head->value_size, stride = head->value_stride, first = head->first_keys;                            \
        const int32_t pair = pair_words(head->head_size), key_words = pair_words(keys);                                          \
        uint32_t *const query = (uint32_t *)scratch, *const score = query + pair, *const key = score + 2 * key_words;            \
        uint32_t *const value = key + (keys + 1) / 2 * pair;                                                                     \
        if (!head->same_keys) {                                                                                                  \
            arrange_rows(k, head->key_stride, key, keys, head->head_size, head->key_drop);                                       \
            for (int32_t d = 0; d < size; d += 4) {                                                                              \
                arrange_values(v + d, stride, size - d, head->value_drop, value + d / 2 * key_words, keys);                      \
            }                                                                                                                    \
        }                                                                                                                        \
        pf_pairs scores = {.w = query, .kind = PF_SCORES}, means = {.w = score, .kind = PF_MEANS_##OUT};                         \
        pf_set_length(&scores, pair);                                                                                            \
        for (int32_t i = 0; i < queries; i += 2, q += 2 * head->query_stride, y += 2 * head->output_stride) {                    \
            uint32_t total[2];                                                                                                   \
            const int32_t second = i + 1 < queries ? 1 : 0;                                                                      \
            const int32_t seen = keys - first > i + second ? first + i + second : keys;                                          \
            const int32_t hidden = keys - first > i ? second : 0, single = seen < keys ? seen % 2 : 0;                           \
            PF_TYPE_##OUT *rows[2] = {y, y + second * head->output_stride};                                                      \
            arrange_two(q, q + second * head->query_stride, query, head->head_size, head->query_drop);                           \
            find_weights(head, &scores, key, pair, score, seen, hidden, single, total);                                          \
            pf_factor f[2];                                                                                                      \
            for (int32_t c = 0; c < 2; c++) {                                                                                    \
                f[c] = pf_scaled_reciprocal(head->value_mantissa, head->value_exponent, total[c]);                               \
                const pf_rescaling by = {f[c].multiplier, (int32_t)(1u << ((f[c].shift - 33) & 31)), f[c].shift - 32};           \
                means.as.means.by[c] = by;                                                                                       \
                means.as.means.y[c] = rows[c];                                                                                   \
            }                                                                                                                    \
            if (f[0].shift <= 32 || f[1].shift <= 32) {                                                                          \
                for (int32_t d = 0; d < 2 * size; d++) {                                                                         \
                    const int32_t c = d & 1, column = d >> 1;                                                                    \
                    const int64_t mean =                                                                                         \
                        slow_mean(value + column / 2 * key_words + column % 2 * 2, score + c * 2, pair_words(seen), f[c]);       \
                    rows[c][column] = PF_SATURATE(OUT, mean);                                                                    \
                }                                                                                                                \
                continue;                                                                                                        \
            }                                                                                                                    \
            pf_set_length(&means, pair_words(seen));                                                                             \
            means.gap = (uint32_t)(key_words - pair_words(seen)) * sizeof *value;                                                \
            means.a = value;                                                                                                     \
            means.a_end = value + size / 2 * key_words;                                                                          \
            if (size > 1) {                                                                                                      \
                pf_dsp_pairs(&means);                                                                                            \
            }                                                                                                                    \
            if (size % 2 != 0) { /* the last column is alone: what stands beside it is nobody's */                               \
                PF_TYPE_##OUT last[2][2];                                                                                        \
                means.as.means.y[0] = last[0];                                                                                   \
                means.as.means.y[1] = last[1];                                                                                   \
                means.a = means.a_end;                                                                                           \
                means.a_end += key_words;                                                                                        \
                pf_dsp_pairs(&means);                                                                                            \
                rows[0][size - 1] = last[0][0];                                                                                  \
                rows[1][size - 1] = last[1][0];                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
