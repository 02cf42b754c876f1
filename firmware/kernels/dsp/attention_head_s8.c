/* One head of an attention on int8 for SMLAD: keys are read where they are, by four queries at a time. */
#include "attention_weights.h"

/* Four elements as pairs of int16: elements 0 and 2, 1 and 3; zeros from `count` on. */
typedef struct pf_quad {
    uint32_t first, second;
} pf_quad;

static inline pf_quad pf_load_quad(const int8_t *x, int32_t count, int32_t drop) {
    uint32_t word = 0;
    pf_quad quad;
    (void)drop;
    if (count >= 4) {
        __builtin_memcpy(&word, x, 4);
    } else {
        for (int32_t i = 0; i < count; i++) {
            word |= (uint32_t)(uint8_t)x[i] << (8 * i);
        }
    }
    __asm__("sxtb16 %0, %1" : "=r"(quad.first) : "r"(word));
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(quad.second) : "r"(word));
    return quad;
}

/* Four columns of `out_end - out` keys; in C:
 *     for (; out != out_end; out += 4, more += 4, v += 4 * stride)
 *         out <- columns 0 and 1 of four keys, more <- columns 2 and 3; */
__attribute__((naked, noinline)) static void arrange_columns(const int8_t *v __attribute__((unused)),
                                                             int32_t stride __attribute__((unused)),
                                                             uint32_t *out __attribute__((unused)),
                                                             uint32_t *more __attribute__((unused)),
                                                             const uint32_t *out_end __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     "1: ldr.w r4, [r0]\n"
                     " ldr.w r5, [r0, r1]\n"
                     " add r0, r0, r1, lsl #1\n"
                     " ldr.w r6, [r0]\n"
                     " ldr.w r7, [r0, r1]\n"
                     " add r0, r0, r1, lsl #1\n"
                     " sxtb16 r8, r4, ror #8\n sxtb16 r9, r5, ror #8\n sxtb16 r10, r6, ror #8\n sxtb16 r11, r7, ror #8\n"
                     " sxtb16 r4, r4\n sxtb16 r5, r5\n sxtb16 r6, r6\n sxtb16 r7, r7\n"
                     " pkhtb r12, r5, r4, asr #16\n"
                     " pkhtb lr, r7, r6, asr #16\n"
                     " pkhbt r4, r4, r5, lsl #16\n"
                     " pkhbt r5, r6, r7, lsl #16\n"
                     " pkhbt r6, r8, r9, lsl #16\n"
                     " pkhbt r7, r10, r11, lsl #16\n"
                     " pkhtb r9, r9, r8, asr #16\n"
                     " pkhtb r11, r11, r10, asr #16\n"
                     " stmia.w r2!, {r4-r7}\n"
                     " strd r12, lr, [r3], #16\n"
                     " strd r9, r11, [r3, #-8]\n"
                     " ldr r4, [sp, #36]\n"
                     " cmp r2, r4\n"
                     " bne 1b\n"
                     " pop {r4-r11, pc}\n");
}

static int32_t arrange_whole(const int8_t *v, int32_t stride, int32_t drop, uint32_t *out, int32_t keys) {
    const int32_t whole = keys / 4 * 4;
    (void)drop;
    if (whole > 0) {
        arrange_columns(v, stride, out, out + pair_words(keys), out + whole);
    }
    return whole;
}

PF_DEFINE_ARRANGE_VALUES(s8, 0)

/* Scores of four queries with the keys from `key` to `key_end`, in C:
 *     for (; key != key_end; key += gap bytes) {
 *         s[4] = {0};
 *         for (w = query; w != query_end; w += 8, key += 4)
 *             s[c] += the four elements of query c at w + 2 * c . key[0..3];
 *         out[0][0..1] = s[0..1], out[1][0..1] = s[2..3], out[0] += 2, out[1] += 2; top[c] = max(top[c], s[c]);
 *     }
 * The inner loop is unrolled 8 times behind its first turn; `skip` bytes of that are left out at first, so that any length comes
 * out even, and heads of more than 9 words (`is_long`) come back. */
typedef struct key_scores {
    const uint32_t *query;
    int32_t top[4];
    int32_t gap;
    const int8_t *key_end;
    uint32_t skip, is_long;
    const uint32_t *query_end;
    const int8_t *key;
    int32_t *out[2];
} key_scores;

/* r0: query, r1: key, r6, r7: four of its elements, r8-r11: sums, lr, r12: out. At sp lies a copy of the struct, whose skip and
 * is_long became where the loop is entered and left. */
__attribute__((naked, noinline)) static void find_key_scores(key_scores *work __attribute__((unused))) {
    __asm__ volatile(" push {r0, r4-r11, lr}\n"
                     " ldr r4, [r0, #28]\n"
                     " adr.w r1, 2f\n"
                     " add r4, r4, r1\n"
                     " orr r4, r4, #1\n"
                     " adr.w r1, 3f\n"
                     " adr.w r5, 4f\n"
                     " ldr r6, [r0, #32]\n"
                     " cmp r6, #0\n"
                     " it eq\n"
                     " moveq r5, r1\n"
                     " orr r5, r5, #1\n"
                     " ldr r6, [r0, #36]\n"
                     " push {r4-r6}\n"
                     " ldr r1, [r0, #40]\n"
                     " ldr.w lr, [r0, #44]\n"
                     " ldr.w r12, [r0, #48]\n"
                     " ldmia r0, {r2-r8}\n"
                     " push {r2-r8}\n"
                     " mov r0, r2\n"
                     "1: ldr r7, [r1], #4\n"
                     " sxtb16 r6, r7\n"
                     " sxtb16 r7, r7, ror #8\n"
                     " ldmia.w r0!, {r2-r5}\n"
                     " smuad r8, r2, r6\n smuad r9, r4, r6\n smlad r8, r3, r7, r8\n smlad r9, r5, r7, r9\n"
                     " ldmia.w r0!, {r2-r5}\n"
                     " smuad r10, r2, r6\n smuad r11, r4, r6\n smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n"
                     " ldr.w pc, [sp, #28]\n"
                     " .balign 4\n"
                     "2:\n .rept 8\n"
                     " ldr r7, [r1], #4\n"
                     " sxtb16 r6, r7\n"
                     " sxtb16 r7, r7, ror #8\n"
                     " ldmia.w r0!, {r2-r5}\n"
                     " smlad r8, r2, r6, r8\n smlad r9, r4, r6, r9\n smlad r8, r3, r7, r8\n smlad r9, r5, r7, r9\n"
                     " ldmia.w r0!, {r2-r5}\n"
                     " smlad r10, r2, r6, r10\n smlad r11, r4, r6, r11\n smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n"
                     " .endr\n"
                     " ldr.w pc, [sp, #32]\n"
                     " .balign 4\n"
                     "4: ldr r2, [sp, #36]\n"
                     " cmp r0, r2\n"
                     " bne 2b\n"
                     " .balign 4\n"
                     "3: ldm.w sp, {r0, r2-r7}\n" /* query, tops, gap, key_end */
                     " strd r8, r9, [lr], #8\n"
                     " strd r10, r11, [r12], #8\n"
                     " cmp r8, r2\n bgt 10f\n"
                     "11: cmp r9, r3\n bgt 12f\n"
                     "13: cmp r10, r4\n bgt 14f\n"
                     "15: cmp r11, r5\n bgt 16f\n"
                     "17: add r1, r1, r6\n"
                     " cmp r1, r7\n"
                     " bne.w 1b\n"
                     " ldr r0, [sp, #40]\n"
                     " add r1, sp, #4\n"
                     " ldmia r1, {r2-r5}\n"
                     " adds r0, r0, #4\n"
                     " stmia r0!, {r2-r5}\n"
                     " add sp, #40\n"
                     " pop {r0, r4-r11, pc}\n"
                     "10: str.w r8, [sp, #4]\n b 11b\n"
                     "12: str.w r9, [sp, #8]\n b 13b\n"
                     "14: str.w r10, [sp, #12]\n b 15b\n"
                     "16: str.w r11, [sp, #16]\n b 17b\n");
}

/* Four rows, eight words for each four elements, of which the queries take two each; the last of `rows` fills up. */
__attribute__((noinline)) static void arrange_queries(const int8_t *q, int32_t stride, int32_t rows, uint32_t *out,
                                                      int32_t size) {
    for (int32_t c = 0; c < 4; c++, out += 2) {
        const int8_t *row = q;
        uint32_t *place = out;
        int32_t left = size;
        for (; left >= 4; left -= 4, row += 4, place += 8) {
            const pf_quad quad = pf_load_quad(row, 4, 0);
            place[0] = quad.first;
            place[1] = quad.second;
        }
        if (left > 0) {
            const pf_quad quad = pf_load_quad(row, left, 0);
            place[0] = quad.first;
            place[1] = quad.second;
        }
        q += c + 1 < rows ? stride : 0;
    }
}

/* Scores with the keys from `first` to before `last`, at the end of those so far. */
static void score_keys(const pf_attention_head *head, key_scores *work, const int8_t *k, int32_t first, int32_t last) {
    if (first < last) {
        work->key = k + first * head->key_stride;
        work->key_end = k + last * head->key_stride;
        find_key_scores(work);
        work->out[0] += 2 * (last - first);
        work->out[1] += 2 * (last - first);
    }
}

/* Keys that query c of four sees: one more than the one before, where there is one. */
static inline int32_t seen_by(int32_t c, int32_t seen, int32_t rows, int32_t keys) {
    const int32_t own = seen + (c < rows ? c : rows - 1);
    return own < keys ? own : keys;
}

/* Scores of four queries, of which the first sees `seen` keys; leaves the largest of each in top. `spare`: four bytes for each
 * started four of a head; the last key goes through there where four bytes at its end would be more than there are. */
__attribute__((noinline)) static void find_scores(const pf_attention_head *head, const uint32_t *query, const int8_t *k,
                                                  int32_t keys, int32_t seen, int32_t rows, int32_t top[4]) {
    const int32_t size = head->head_size, quads = (size + 3) / 4, more = quads - 1, pitch = 2 * pair_words(keys);
    const int32_t safe = size % 4 != 0 ? keys - 1 : keys, most = seen_by(3, seen, rows, keys);
    int32_t *const score = (int32_t *)query + 8 * quads;
    key_scores work = {.query = query,
                       .top = {INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN},
                       .gap = head->key_stride - 4 * quads,
                       .skip = more == 0 ? 416u : (uint32_t)(-more & 7) * 52u,
                       .is_long = more > 8,
                       .query_end = query + 8 * quads,
                       .out = {score, score + pitch}};
    const int32_t all = seen < safe ? seen : safe;
    score_keys(head, &work, k, 0, all);
    for (int32_t c = 0; c < 4; c++) {
        top[c] = work.top[c];
    }
    score_keys(head, &work, k, all, most < safe ? most : safe);
    if (most > safe) {
        int8_t *const spare = (int8_t *)(score + 2 * pitch);
        for (int32_t i = 0; i < size; i++) {
            spare[i] = k[safe * head->key_stride + i];
        }
        work.gap = 0;
        work.key = spare;
        work.key_end = spare + 4 * quads;
        find_key_scores(&work);
    }
    for (int32_t c = 0; c < 4 && all < most; c++) {
        const int32_t *own = score + c / 2 * pitch + c % 2;
        for (int32_t j = all; j < seen_by(c, seen, rows, keys); j++) {
            top[c] = own[2 * j] > top[c] ? own[2 * j] : top[c];
        }
    }
}

#define DEFINE_HEAD(OUT)                                                                                                         \
    PF_DEFINE_MEANS(OUT)                                                                                                         \
    void pf_attention_head_s8_##OUT(const pf_attention_head *head, const int8_t *q, const int8_t *k, const int8_t *v,            \
                                    PF_TYPE_##OUT *y, int32_t queries, int32_t keys, int32_t *scratch) {                         \
        const int32_t head_words = 2 * pair_words(head->head_size), pitch = 2 * pair_words(keys);                                \
        pf_head_work work = {.head = head, .key_words = pair_words(keys)};                                                       \
        uint32_t *const query = (uint32_t *)scratch;                                                                             \
        work.value = query + head_words + 2 * pitch + head_words / 8;                                                            \
        if (!head->same_keys) {                                                                                                  \
            for (int32_t d = 0; d < head->value_size; d += 4) {                                                                  \
                arrange_values(v + d, head->value_stride, head->value_size - d, 0, work.value + d / 2 * work.key_words, keys);   \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int32_t seen = head->first_keys; queries > 0; queries -= 4, seen += 4, q += 4 * head->query_stride) {               \
            int32_t top[4];                                                                                                      \
            arrange_queries(q, head->query_stride, queries, query, head->head_size);                                             \
            find_scores(head, query, k, keys, seen, queries, top);                                                               \
            for (int32_t c = 0; c < 4 && c < queries; c += 2) {                                                                  \
                PF_TYPE_##OUT *const next = c + 1 < queries ? y + head->output_stride : y;                                       \
                work.score = query + head_words + c / 2 * pitch;                                                                 \
                work.seen[0] = seen_by(c, seen, queries, keys), work.seen[1] = seen_by(c + 1, seen, queries, keys);              \
                work.top[0] = top[c], work.top[1] = top[c + 1];                                                                  \
                find_weights(&work);                                                                                             \
                find_means_##OUT(&work, y, next);                                                                                \
                y = next + head->output_stride;                                                                                  \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
