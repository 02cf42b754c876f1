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

/* Four rows, eight words for each four elements, of which the queries take two each. */
__attribute__((noinline)) static void arrange_queries(const int8_t *const q[4], uint32_t *out, int32_t size) {
    for (int32_t i = 0; i < size; i += 4) {
        for (int32_t c = 0; c < 4; c++, out += 2) {
            const pf_quad quad = pf_load_quad(q[c] + i, size - i, 0);
            out[0] = quad.first;
            out[1] = quad.second;
        }
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

/* Scores of four queries, each with seen[c] keys and its largest in top[c]. `spare`: four bytes for each started four of a head;
 * the last key goes through there where four bytes at its end would be more than there are. */
__attribute__((noinline)) static void find_scores(const pf_attention_head *head, const uint32_t *query, const int8_t *k,
                                                  int32_t keys, const int32_t seen[4], int32_t *score, int32_t pitch,
                                                  int8_t *spare, int32_t top[4]) {
    const int32_t size = head->head_size, quads = (size + 3) / 4, more = quads - 1;
    const int32_t safe = size % 4 != 0 ? keys - 1 : keys;
    key_scores work = {.query = query,
                       .top = {INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN},
                       .gap = head->key_stride - 4 * quads,
                       .skip = more == 0 ? 416u : (uint32_t)(-more & 7) * 52u,
                       .is_long = more > 8,
                       .query_end = query + 8 * quads,
                       .out = {score, score + pitch}};
    const int32_t all = seen[0] < safe ? seen[0] : safe;
    score_keys(head, &work, k, 0, all);
    for (int32_t c = 0; c < 4; c++) {
        top[c] = work.top[c];
    }
    score_keys(head, &work, k, all, seen[3] < safe ? seen[3] : safe);
    if (seen[3] > safe) {
        for (int32_t i = 0; i < size; i++) {
            spare[i] = k[safe * head->key_stride + i];
        }
        work.gap = 0;
        work.key = spare;
        work.key_end = spare + 4 * quads;
        find_key_scores(&work);
    }
    for (int32_t c = 0; c < 4; c++) {
        const int32_t *own = score + c / 2 * pitch + c % 2;
        for (int32_t j = all; j < seen[c]; j++) {
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
        uint32_t *const query = (uint32_t *)scratch, *const score = query + head_words;                                          \
        int8_t *const spare = (int8_t *)(score + 2 * pitch);                                                                     \
        work.value = score + 2 * pitch + head_words / 8;                                                                         \
        if (!head->same_keys) {                                                                                                  \
            for (int32_t d = 0; d < head->value_size; d += 4) {                                                                  \
                arrange_values(v + d, head->value_stride, head->value_size - d, 0, work.value + d / 2 * work.key_words, keys);   \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int32_t i = 0; i < queries; i += 4) {                                                                               \
            const int8_t *rows[4];                                                                                               \
            int32_t seen[4], top[4];                                                                                             \
            for (int32_t c = 0; c < 4; c++) { /* the last query fills up */                                                      \
                const int32_t row = i + c < queries ? i + c : queries - 1;                                                       \
                rows[c] = q + row * head->query_stride;                                                                          \
                seen[c] = keys - head->first_keys > row ? head->first_keys + row : keys;                                         \
            }                                                                                                                    \
            arrange_queries(rows, query, head->head_size);                                                                       \
            find_scores(head, query, k, keys, seen, (int32_t *)score, pitch, spare, top);                                        \
            for (int32_t c = 0; c < 4 && i + c < queries; c += 2) {                                                              \
                PF_TYPE_##OUT *const first = y + (i + c) * head->output_stride;                                                  \
                work.score = score + c / 2 * pitch;                                                                              \
                work.seen[0] = seen[c], work.seen[1] = seen[c + 1];                                                              \
                work.top[0] = top[c], work.top[1] = top[c + 1];                                                                  \
                find_weights(&work);                                                                                             \
                find_means_##OUT(&work, first, i + c + 1 < queries ? first + head->output_stride : first);                       \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_HEAD(s8)
DEFINE_HEAD(s16)
