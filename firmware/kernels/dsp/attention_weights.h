/* From the scores of two queries to the weighted means of the values, for any pair of types.
 *
 * The scores of two queries lie key by key; the numerators replace them as attention_pairs.h wants vectors, so that they are one
 * side of the second product. The values lie in pairs of columns. */
#ifndef PF_DSP_ATTENTION_WEIGHTS_H
#define PF_DSP_ATTENTION_WEIGHTS_H

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "attention_pairs.h"

/* Two queries of a head: the first sees seen[0] keys, the second, seen[1], none fewer. */
typedef struct pf_head_work {
    const pf_attention_head *head;
    uint32_t *score, *value;
    int32_t key_words; /* of a pair of columns of the values */
    int32_t seen[2], top[2];
    uint32_t total[2];
    pf_pairs pairs;
} pf_head_work;

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
__attribute__((noinline)) static void slow_numerators(const pf_numerators *work, int32_t shift) {
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

/* Sums of the numerators of two queries, eight keys at a time behind a first four where there is one. */
__attribute__((naked, noinline)) static void find_totals(const uint32_t *p __attribute__((unused)),
                                                         const uint32_t *end __attribute__((unused)),
                                                         uint32_t total[2] __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " mov r10, #0\n mov r11, #0\n"
                     " mov r12, #0x00010001\n"
                     " sub r3, r1, r0\n"
                     " tst r3, #16\n"
                     " beq 1f\n"
                     " ldmia r0!, {r4-r7}\n"
                     " smuad r10, r4, r12\n smlad r10, r5, r12, r10\n"
                     " smuad r11, r6, r12\n smlad r11, r7, r12, r11\n"
                     " cmp r0, r1\n"
                     " beq 2f\n"
                     "1: ldmia.w r0!, {r3-r9, lr}\n"
                     " smlad r10, r3, r12, r10\n smlad r10, r4, r12, r10\n smlad r10, r7, r12, r10\n smlad r10, r8, r12, r10\n"
                     " smlad r11, r5, r12, r11\n smlad r11, r6, r12, r11\n smlad r11, r9, r12, r11\n smlad r11, lr, r12, r11\n"
                     " cmp r0, r1\n"
                     " bne 1b\n"
                     "2: stmia.w r2, {r10, r11}\n"
                     " pop {r4-r11, pc}\n");
}

/* No part of a weighted sum of key `j` for query c. */
static inline void leave_out(uint32_t *p, int32_t j, int32_t c) {
    ((uint16_t *)p)[j / 4 * 8 + c * 4 + j % 4] = 0;
}

/* Leaves the numerators of two queries in place of their scores, and the sums of them. */
__attribute__((noinline)) static void find_weights(pf_head_work *work) {
    const int32_t *const seen = work->seen;
    const int32_t limit = (int32_t)1 << 30; /* no score is below -limit */
    const pf_attention_head *const head = work->head;
    const pf_numerators own = {(int32_t *)work->score,
                               (int32_t *)work->score + pair_words(seen[1]) * 2,
                               {work->top[0], work->top[1]},
                               head->score_multiplier,
                               head->table};
    if (head->score_shift == 32 && head->head_size < 1 << 16 && own.top[0] < limit && own.top[1] < limit) {
        pf_dsp_numerators(&own);
    } else {
        slow_numerators(&own, head->score_shift);
    }
    for (int32_t c = 0; c < 2; c++) {
        for (int32_t j = seen[c]; j < pair_words(seen[1]); j++) {
            leave_out(work->score, j, c);
        }
    }
    find_totals(work->score, work->score + pair_words(seen[1]), work->total);
}

/* Means whose shift is 32 or less, far finer than the values: in 64 bits. `largest`: of the output's type. */
__attribute__((noinline)) static int32_t slow_mean(const pf_head_work *work, int32_t column, int32_t c, pf_factor f,
                                                   int32_t largest) {
    const int16_t *a = (const int16_t *)(work->value + column / 2 * work->key_words + column % 2 * 2);
    const int16_t *w = (const int16_t *)(work->score + c * 2);
    int32_t sum = 0;
    for (int32_t j = 0; j < work->seen[1]; j += 4, a += 8, w += 8) {
        sum += a[0] * w[0] + a[1] * w[1] + a[2] * w[2] + a[3] * w[3];
    }
    const int64_t mean = pf_rounding_shift((int64_t)sum * f.multiplier, f.shift);
    return mean > largest ? largest : mean < -largest - 1 ? -largest - 1 : (int32_t)mean;
}

/* Values, four columns by four keys at a time, into pairs of columns; a group of fewer keys repeats its first one, whose
 * other numerators are zero then. HIGH_FIRST: where the high halves of pf_load_quad's first word belong, before or behind the low
 * halves of the second. arrange_whole does the same for whole groups of keys and columns, as many as it can, and returns their
 * keys. */
#define PF_DEFINE_ARRANGE_VALUES(IN, HIGH_FIRST)                                                                                 \
    __attribute__((noinline)) static void arrange_values(const PF_TYPE_##IN *v, int32_t stride, int32_t count, int32_t drop,     \
                                                         uint32_t *out, int32_t keys) {                                          \
        int32_t j = count >= 4 ? arrange_whole(v, stride, drop, out, keys) : 0;                                                  \
        uint32_t *more = out + pair_words(keys) + j;                                                                             \
        v += j * stride;                                                                                                         \
        for (out += j; j < keys; j += 4, out += 4, more += 4, v += 4 * stride) {                                                 \
            const int32_t left = keys - j;                                                                                       \
            const pf_quad a = pf_load_quad(v, count, drop);                                                                      \
            const pf_quad b = pf_load_quad(v + (left > 1 ? stride : 0), count, drop);                                            \
            const pf_quad c = pf_load_quad(v + (left > 2 ? 2 * stride : 0), count, drop);                                        \
            const pf_quad d = pf_load_quad(v + (left > 3 ? 3 * stride : 0), count, drop);                                        \
            uint32_t *const high = HIGH_FIRST ? out + 2 : more, *const low = HIGH_FIRST ? more : out + 2;                        \
            out[0] = low_halves(a.first, b.first);                                                                               \
            out[1] = low_halves(c.first, d.first);                                                                               \
            high[0] = high_halves(a.first, b.first);                                                                             \
            high[1] = high_halves(c.first, d.first);                                                                             \
            low[0] = low_halves(a.second, b.second);                                                                             \
            low[1] = low_halves(c.second, d.second);                                                                             \
            more[2] = high_halves(a.second, b.second);                                                                           \
            more[3] = high_halves(c.second, d.second);                                                                           \
        }                                                                                                                        \
    }

#define PF_DEFINE_MEANS(OUT)                                                                                                     \
    /* The weighted means of two queries; y1 == y0 where there is one. */                                                        \
    __attribute__((noinline)) static void find_means_##OUT(pf_head_work *work, PF_TYPE_##OUT *y0, PF_TYPE_##OUT *y1) {           \
        const int32_t size = work->head->value_size, words = pair_words(work->seen[1]);                                          \
        pf_pairs *const pairs = &work->pairs;                                                                                    \
        for (int32_t c = 0; c < 2; c++) {                                                                                        \
            const pf_factor f = pf_scaled_reciprocal(work->head->value_mantissa, work->head->value_exponent, work->total[c]);    \
            pairs->as.means.by[c].multiplier = f.multiplier;                                                                     \
            pairs->as.means.by[c].half = (int32_t)(1u << ((f.shift - 33) & 31));                                                 \
            pairs->as.means.by[c].shift = f.shift - 32;                                                                          \
        }                                                                                                                        \
        pairs->w = work->score;                                                                                                  \
        pairs->kind = PF_MEANS_##OUT;                                                                                            \
        pf_set_length(pairs, words);                                                                                             \
        pairs->gap = (uint32_t)(work->key_words - words) * sizeof *work->value;                                                  \
        pairs->a = work->value;                                                                                                  \
        pairs->a_end = work->value + size / 2 * work->key_words;                                                                 \
        pairs->as.means.y[0] = y0;                                                                                               \
        pairs->as.means.y[1] = y1;                                                                                               \
        if (size > 1) {                                                                                                          \
            pf_dsp_pairs(pairs);                                                                                                 \
        }                                                                                                                        \
        if (size % 2 != 0) { /* the last column is alone: what stands beside it is nobody's */                                   \
            PF_TYPE_##OUT last[2][2];                                                                                            \
            pairs->as.means.y[0] = last[0];                                                                                      \
            pairs->as.means.y[1] = last[1];                                                                                      \
            pairs->a = pairs->a_end;                                                                                             \
            pairs->a_end += work->key_words;                                                                                     \
            pf_dsp_pairs(pairs);                                                                                                 \
            y0[size - 1] = last[0][0];                                                                                           \
            y1[size - 1] = last[1][0];                                                                                           \
        }                                                                                                                        \
        for (int32_t c = 0; c < 2; c++) {                                                                                        \
            const pf_factor f = {pairs->as.means.by[c].multiplier, pairs->as.means.by[c].shift + 32};                            \
            for (int32_t d = 0; f.shift <= 32 && d < size; d++) {                                                                \
                (c == 0 ? y0 : y1)[d] = (PF_TYPE_##OUT)slow_mean(work, d, c, f, PF_MAX_##OUT);                                   \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
