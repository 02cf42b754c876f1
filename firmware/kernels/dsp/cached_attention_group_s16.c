/* One row of a cached attention on int16 keys: scores for SMLAD, means of int16 values for SMLALD. */
#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

#include "word_rows.h"

enum {
    TURN = 16,        /* groups of eight elements that the loop over a long key is unrolled to */
    GROUP_BYTES = 22, /* of its code */
    KEY_BYTES = 30,   /* of the code for a key of eight elements, and as many as those are unrolled to */
    KEYS = 4,
};

/* Scores of one head, and their maximum. */
typedef struct score_work {
    const int16_t *q;
    int32_t start;
    uint32_t entry; /* with q and start what a long key begins with */
    const int16_t *keys;
    int32_t step; /* bytes from one key to the next; of long keys from the end of one */
    int32_t *scores, *end;
} score_work;

#define LABEL(NAME) " .global " #NAME "\n .thumb_func\n" #NAME ":\n"
/* Labels inside the two. */
void pf_dsp_short_keys(void), pf_dsp_long_key(void);

/* Keys of eight elements; in C: for (; scores != end; keys += step) { *scores++ = q . key; top = max(top, it); } */
#define KEY(N)                                                                                                                   \
    " ldm.w r0, {r8-r11}\n add r0, r1\n smuad r12, r4, r8\n smlad r12, r5, r9, r12\n smlad r12, r6, r10, r12\n"                  \
    " smlad r12, r7, r11, r12\n str r12, [r2], #4\n cmp r12, lr\n bgt.n 1" N "f\n2" N ":\n"
#define HIGHER(N) "1" N ": mov lr, r12\n b.n 2" N "b\n"

__attribute__((naked, noinline)) static int32_t short_scores(const score_work *work __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " mov.w lr, #0x80000000\n"
                     " ldmia.w r0, {r8-r12}\n"
                     " ldr r2, [r0, #20]\n"
                     " ldr r3, [r0, #24]\n"
                     " mov r0, r11\n"
                     " mov r1, r12\n"
                     " ldm.w r8, {r4-r7}\n"
                     " bx r10\n" LABEL(pf_dsp_short_keys) KEY("1") KEY("2") KEY("3")
                         KEY("4") " cmp r2, r3\n"
                                  " bne.w pf_dsp_short_keys\n"
                                  " mov r0, lr\n"
                                  " pop {r4-r11, pc}\n" HIGHER("1") HIGHER("2") HIGHER("3") HIGHER("4"));
}

/* The same for keys of whole eights. */
__attribute__((naked, noinline)) static int32_t long_scores(const score_work *work __attribute__((unused))) {
    __asm__ volatile(" push {r0, r4-r11, lr}\n"
                     " ldmia.w r0, {r1-r5, r12}\n"
                     " ldr r6, [r0, #24]\n"
                     " push {r1, r2, r3, r6}\n" /* sp: q, start, entry, end */
                     " mov r0, r4\n"
                     " mov lr, r5\n"
                     " mov.w r11, #0x80000000\n"
                     " ldm.w sp, {r1, r10, pc}\n" LABEL(pf_dsp_long_key) " .rept 16\n"
                                                                         " ldmia.n r0!, {r2-r5}\n"
                                                                         " ldmia.w r1!, {r6-r9}\n"
                                                                         " smlad r10, r2, r6, r10\n"
                                                                         " smlad r10, r3, r7, r10\n"
                                                                         " smlad r10, r4, r8, r10\n"
                                                                         " smlad r10, r5, r9, r10\n"
                                                                         " .endr\n"
                                                                         " add r0, lr\n"
                                                                         " str r10, [r12], #4\n"
                                                                         " cmp r10, r11\n"
                                                                         " bgt.n 3f\n"
                                                                         "2: ldr r2, [sp, #12]\n"
                                                                         " cmp r12, r2\n"
                                                                         " beq.n 4f\n"
                                                                         " ldm.w sp, {r1, r10, pc}\n"
                                                                         "3: mov r11, r10\n"
                                                                         " b.n 2b\n"
                                                                         "4: mov r0, r11\n"
                                                                         " add sp, #20\n"
                                                                         " pop {r4-r11, pc}\n");
}

static inline uint32_t code(void (*label)(void)) {
    return (uint32_t)(uintptr_t)label;
}

/* Leaves the scores of `count` keys and returns the largest; q has lost its low bits and lies at a word. */
static int32_t find_scores(const int16_t *q, const int16_t *keys, int32_t size, int32_t stride, int32_t *scores, int32_t count) {
    const int32_t are_words = (((uintptr_t)keys | (uint32_t)stride << 1) & 3u) == 0u;
    score_work work = {q, 0, 0, keys, 2 * stride, scores, scores + count};
    if (are_words && size == 8) {
        work.entry = code(pf_dsp_short_keys) + (uint32_t)(-count & (KEYS - 1)) * KEY_BYTES;
        return short_scores(&work);
    }
    if (are_words && size % 8 == 0 && size <= 8 * TURN) {
        work.entry = code(pf_dsp_long_key) + (uint32_t)(TURN - size / 8) * GROUP_BYTES;
        work.step -= 2 * size;
        return long_scores(&work);
    }
    int32_t top = INT32_MIN;
    for (int32_t j = 0; j < count; j++, keys += stride) {
        int32_t score = 0;
        for (int32_t d = 0; d < size; d++) {
            score += q[d] * keys[d];
        }
        scores[j] = score;
        top = score > top ? score : top;
    }
    return top;
}

/* Adds a slope; the largest, and whether a distance to it may pass 31 bits. */
__attribute__((noinline)) static int32_t add_slope(int32_t *scores, int32_t count, int32_t slope, int32_t *is_far) {
    int32_t top = INT32_MIN, least = INT32_MAX;
    for (int32_t j = 0; j < count; j++) {
        const int32_t score = scores[j] + (int32_t)pf_rounding_shift((int64_t)slope * j, 8);
        scores[j] = score;
        top = score > top ? score : top;
        least = score < least ? score : least;
    }
    *is_far = (uint32_t)top - (uint32_t)least > INT32_MAX;
    return top;
}

/* Scores to numerators, eight at a time, in place, and their sum; in C:
 *     for (; scores != end; total += *out++) *out = table[usat(rounded high word of (top - *scores++) * multiplier, 10 bits)]; */
typedef struct numerator_work {
    const int32_t *scores, *end;
    int32_t top, multiplier;
    const uint16_t *table;
} numerator_work;

#define NUMERATOR(R)                                                                                                             \
    " sub " R ", r11, " R "\n smmulr " R ", " R ", r12\n usat " R ", #10, " R "\n ldrh.w " R ", [lr, " R ", lsl #1]\n"
__attribute__((naked, noinline)) static uint32_t fast_numerators(const numerator_work *work __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " ldmia.w r0, {r4, r5, r11, r12, lr}\n"
                     " mov r0, r4\n"
                     " mov r1, r4\n"
                     " movs r4, #0\n"
                     " push {r4, r5}\n" /* sp: total, end */
                     "1: ldmia.w r0!, {r2-r9}\n" NUMERATOR("r2") NUMERATOR("r3") NUMERATOR("r4") NUMERATOR("r5") NUMERATOR("r6")
                         NUMERATOR("r7") NUMERATOR("r8") NUMERATOR("r9") " pkhbt r2, r2, r3, lsl #16\n"
                                                                         " pkhbt r3, r4, r5, lsl #16\n"
                                                                         " pkhbt r4, r6, r7, lsl #16\n"
                                                                         " pkhbt r5, r8, r9, lsl #16\n"
                                                                         " stmia.n r1!, {r2-r5}\n"
                                                                         " mov.w r10, #0x00010001\n"
                                                                         " ldrd r6, r7, [sp]\n"
                                                                         " smlad r6, r2, r10, r6\n"
                                                                         " smlad r6, r3, r10, r6\n"
                                                                         " smlad r6, r4, r10, r6\n"
                                                                         " smlad r6, r5, r10, r6\n"
                                                                         " str r6, [sp]\n"
                                                                         " cmp r0, r7\n"
                                                                         " bne.n 1b\n"
                                                                         " pop {r0, r1, r4-r11, pc}\n");
}

/* Numerators in place of the scores, two to a word, none behind the last but zero to the next multiple of eight. */
static uint32_t find_numerators(const pf_cached_attention *a, int32_t *scores, int32_t count, int32_t top, int32_t is_far) {
    uint16_t *const p = (uint16_t *)(void *)scores;
    uint32_t total = 0;
    if (a->score_shift == 32 && !is_far) {
        const numerator_work work = {scores, scores + ((count + 7) & ~7), top, a->score_multiplier, a->table};
        total = fast_numerators(&work);
        for (int32_t j = count; j % 8 != 0; j++) {
            total -= p[j];
            p[j] = 0;
        }
        return total;
    }
    for (int32_t j = 0; j < count; j++) {
        const uint32_t distance = (uint32_t)top - (uint32_t)scores[j];
        const uint32_t numerator = pf_numerator(a->table, distance, (uint32_t)a->score_multiplier, a->score_shift);
        __asm__ volatile("" ::: "memory"); /* p lies on the scores: each is read before it is written over */
        p[j] = (uint16_t)numerator;
        total += numerator;
    }
    for (int32_t j = count; j % 8 != 0; j++) {
        p[j] = 0;
    }
    return total;
}

/* Endings of a sum of values; in C: y = clamp(narrow(sum) * multiplier + 2^(shift - 1) >> shift) for a shift above 32, `half` and
 * `shift` less by 32. */
#define MEAN                                                                                                                     \
    " add.w lr, sp, #" PF_DSP_WORD_OWN "\n ldm.w lr, {r1-r9}\n add r0, r3\n adds.w r12, r12, r4\n adc r11, r11, #0\n"            \
    " lsr.w r12, r12, r5\n lsl.w r11, r11, r6\n orr.w r12, r12, r11\n smmul r12, r12, r7\n add r12, r8\n asr.w r12, r12, r9\n"
#define DEFINE_MEAN(NAME, BITS, STORE, STEP)                                                                                     \
    __attribute__((naked, noinline)) static void NAME(void) {                                                                    \
        __asm__ volatile(MEAN " ssat r12, #" BITS ", r12\n " STORE " r12, [r1], #" STEP                                          \
                              "\n str.w r1, [lr]\n cmp r1, r2\n" PF_DSP_NEXT_WORD_ROW);                                          \
    }
DEFINE_MEAN(mean_s8, "8", "strb", "1")
DEFINE_MEAN(mean_s16, "16", "strh", "2")

/* Means of int16 values in words. */
static void word_means(const pf_cached_attention *a, const uint16_t *p, const int16_t *values, void *y, uint32_t finish,
                       int32_t out_bytes, int32_t count, pf_factor f) {
    const int32_t words = (count + 1) / 2;
    pf_dsp_word_frame frame;
    pf_dsp_set_words(&frame, p, words);
    frame.finish = finish;
    frame.own.mean.y = y;
    frame.own.mean.end = (const char *)y + a->value_size * out_bytes;
    frame.own.mean.gap = 2 * a->positions - 4 * words;
    frame.own.mean.drop_half = (int32_t)1 << a->value_shift >> 1;
    frame.own.mean.drop = a->value_shift;
    frame.own.mean.keep = 32 - a->value_shift;
    frame.own.mean.multiplier = f.multiplier;
    frame.own.mean.half = (int32_t)1 << (f.shift - 33);
    frame.own.mean.shift = f.shift - 32;
    pf_dsp_word_rows(values, &frame);
}

#define DEFINE_ANY_MEANS(V, OUT)                                                                                                 \
    __attribute__((noinline)) static void any_means_##V##_##OUT(const pf_cached_attention *a, const uint16_t *p,                 \
                                                                const PF_TYPE_##V *values, PF_TYPE_##OUT *y, int32_t count,      \
                                                                pf_factor f) {                                                   \
        for (int32_t e = 0; e < a->value_size; e++, values += a->positions) {                                                    \
            int64_t sum = 0;                                                                                                     \
            for (int32_t j = 0; j < count; j++) {                                                                                \
                sum += p[j] * values[j];                                                                                         \
            }                                                                                                                    \
            sum = a->value_shift != 0 ? pf_rounding_shift(sum, a->value_shift) : sum;                                            \
            const int64_t value = pf_rounding_shift(sum * f.multiplier, f.shift);                                                \
            y[e] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }
DEFINE_ANY_MEANS(s8, s8)
DEFINE_ANY_MEANS(s8, s16)
DEFINE_ANY_MEANS(s16, s8)
DEFINE_ANY_MEANS(s16, s16)

#define ARE_WORDS_s8(VALUES, POSITIONS)  0
#define ARE_WORDS_s16(VALUES, POSITIONS) ((((uintptr_t)(VALUES) | (uint32_t)(POSITIONS) << 1) & 3u) == 0u)

#define DEFINE_GROUP(V, OUT)                                                                                                     \
    void pf_cached_attention_group_s16_##V##_##OUT(const pf_cached_attention *a, const int16_t *q, const int16_t *keys,          \
                                                   const PF_TYPE_##V *values, PF_TYPE_##OUT *y, int32_t head, int32_t count,     \
                                                   void *scratch) {                                                              \
        const int32_t size = a->head_size, last = head + a->heads / a->kv_heads;                                                 \
        int16_t *const narrow = scratch;                                                                                         \
        int32_t *const scores = (int32_t *)(void *)(narrow + ((size + 7) & ~7));                                                 \
        for (; head < last; head++, q += size, y += a->value_size) {                                                             \
            int32_t is_far = 0;                                                                                                  \
            for (int32_t d = 0; d < size; d++) {                                                                                 \
                narrow[d] = (int16_t)pf_narrow(q[d], a->query_drop);                                                             \
            }                                                                                                                    \
            int32_t top = find_scores(narrow, keys, size, a->kv_heads * size, scores, count);                                    \
            if (a->slope_multiplier != 0) {                                                                                      \
                top = add_slope(scores, count, a->slope_multiplier[head], &is_far);                                              \
            }                                                                                                                    \
            const uint32_t total = find_numerators(a, scores, count, top, is_far);                                               \
            const pf_factor f = pf_scaled_reciprocal(a->value_mantissa, a->value_exponent, total);                               \
            if (ARE_WORDS_##V(values, a->positions) && f.shift > 32) {                                                           \
                word_means(a, (const uint16_t *)(const void *)scores, (const int16_t *)(const void *)values, y,                  \
                           code(mean_##OUT), (int32_t)sizeof *y, count, f);                                                      \
            } else {                                                                                                             \
                any_means_##V##_##OUT(a, (const uint16_t *)(const void *)scores, values, y, count, f);                           \
            }                                                                                                                    \
        }                                                                                                                        \
    }
DEFINE_GROUP(s8, s8)
DEFINE_GROUP(s8, s16)
DEFINE_GROUP(s16, s8)
DEFINE_GROUP(s16, s16)
