/* One row of a cached attention for MVE: eight elements of a key, four scores, eight keys of a value at a time, for any types. */
#ifndef PF_MVE_CACHED_ATTENTION_GROUP_H
#define PF_MVE_CACHED_ATTENTION_GROUP_H

#include <arm_mve.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

/* Eight elements as int16, and the first of them where `there` says so, zeros behind. */
#define EIGHT_s8(FROM)              vldrbq_s16(FROM)
#define EIGHT_s16(FROM)             vldrhq_s16(FROM)
#define FIRST_OF_EIGHT_s8(FROM, T)  vldrbq_z_s16(FROM, T)
#define FIRST_OF_EIGHT_s16(FROM, T) vldrhq_z_s16(FROM, T)
#define LOAD_EIGHT_s8               "vldrb.s16"
#define LOAD_EIGHT_s16              "vldrh.u16"
#define EIGHT_BYTES_s8              "8"
#define EIGHT_BYTES_s16             "16"

/* The scores of `fours` times four keys of eight elements, `step` bytes apart; in C:
 *     for (; fours > 0; fours--) for (i = 0; i < 4; i++, keys += step) *scores++ = q . key; */
#define DEFINE_SHORT_SCORES(K)                                                                                                   \
    __attribute__((naked, noinline)) static void short_scores_##K(                                                               \
        const int16_t *q __attribute__((unused)), const PF_TYPE_##K *keys __attribute__((unused)),                               \
        int32_t step __attribute__((unused)), int32_t *scores __attribute__((unused)), int32_t fours __attribute__((unused))) {  \
        __asm__ volatile(" push {r4-r7, lr}\n"                                                                                   \
                         " ldr r12, [sp, #20]\n"                                                                                 \
                         " vldrh.u16 q3, [r0]\n"                                                                                 \
                         " dls lr, r12\n"                                                                                        \
                         "1: " LOAD_EIGHT_##K " q0, [r1]\n add r1, r2\n " LOAD_EIGHT_##K                                         \
                         " q1, [r1]\n add r1, r2\n"                                                                              \
                         " vmladav.s16 r4, q0, q3\n " LOAD_EIGHT_##K " q0, [r1]\n add r1, r2\n vmladav.s16 r6, q1, q3\n"         \
                                                                     " " LOAD_EIGHT_##K                                          \
                         " q1, [r1]\n add r1, r2\n vmladav.s16 r0, q0, q3\n vmladav.s16 r12, q1, q3\n"                           \
                         " strd r4, r6, [r3], #8\n strd r0, r12, [r3], #8\n"                                                     \
                         " le lr, 1b\n"                                                                                          \
                         " pop {r4-r7, pc}\n");                                                                                  \
    }

/* The scores of one head; q has lost its low bits and is filled up with zeros to a multiple of eight. */
#define DEFINE_SCORES(K)                                                                                                         \
    DEFINE_SHORT_SCORES(K)                                                                                                       \
    static void scores_##K(const int16_t *q, const PF_TYPE_##K *keys, int32_t size, int32_t stride, int32_t *scores,             \
                           int32_t count) {                                                                                      \
        if (size == 8 && count >= 4) {                                                                                           \
            const int32_t fours = count / 4;                                                                                     \
            short_scores_##K(q, keys, stride *(int32_t)sizeof *keys, scores, fours);                                             \
            scores += 4 * fours;                                                                                                 \
            keys += 4 * fours * stride;                                                                                          \
            count -= 4 * fours;                                                                                                  \
        }                                                                                                                        \
        const mve_pred16_t there = vctp16q((uint32_t)((size - 1) % 8 + 1));                                                      \
        for (; count > 0; count--, keys += stride) {                                                                             \
            int32_t score = 0, d = 0;                                                                                            \
            for (; d < size - 8; d += 8) {                                                                                       \
                score = vmladavaq_s16(score, EIGHT_##K(keys + d), vldrhq_s16(q + d));                                            \
            }                                                                                                                    \
            *scores++ = vmladavaq_s16(score, FIRST_OF_EIGHT_##K(keys + d, there), vldrhq_s16(q + d));                            \
        }                                                                                                                        \
    }

/* The largest score. */
static int32_t find_top(const int32_t *scores, int32_t count) {
    int32_t most = INT32_MIN;
    for (; count >= 4; count -= 4, scores += 4) {
        most = vmaxvq_s32(most, vldrwq_s32(scores));
    }
    for (; count > 0; count--, scores++) {
        most = *scores > most ? *scores : most;
    }
    return most;
}

/* Numerators of the scores and their sum, four at a time; in C:
 *     for (; count > 0; count--, total += *p++) *p = table[min(1023, rounded high word of (top - *scores++) * multiplier)]; */
__attribute__((naked, noinline)) static uint32_t
fast_numerators(const int32_t *scores __attribute__((unused)), int16_t *p __attribute__((unused)),
                const uint16_t *table __attribute__((unused)), int32_t top __attribute__((unused)),
                int32_t less_multiplier __attribute__((unused)), int32_t count __attribute__((unused))) {
    __asm__ volatile(" push {r4, lr}\n"
                     " ldrd r4, r12, [sp, #8]\n"
                     " vdup.32 q2, r4\n"
                     " movw r4, #1023\n"
                     " vdup.32 q3, r4\n"
                     " movs r4, #0\n"
                     " dlstp.32 lr, r12\n"
                     "1: vldrw.u32 q0, [r0], #16\n"
                     " vsub.i32 q0, q0, r3\n"
                     " vrmulh.s32 q0, q0, q2\n"
                     " vmin.u32 q0, q0, q3\n"
                     " vldrh.u32 q1, [r2, q0, uxtw #1]\n"
                     " vstrh.32 q1, [r1], #8\n"
                     " vaddva.u32 r4, q1\n"
                     " letp lr, 1b\n"
                     " mov r0, r4\n"
                     " pop {r4, pc}\n");
}

static uint32_t find_numerators(const pf_cached_attention *a, const int32_t *scores, int16_t *p, int32_t count, int32_t top,
                                int32_t is_far) {
    if (a->score_shift == 32 && !is_far) {
        return fast_numerators(scores, p, a->table, top, -a->score_multiplier, count);
    }
    uint32_t total = 0;
    for (int32_t j = 0; j < count; j++) {
        const uint32_t distance = (uint32_t)top - (uint32_t)scores[j];
        const uint32_t numerator = pf_numerator(a->table, distance, (uint32_t)a->score_multiplier, a->score_shift);
        p[j] = (int16_t)numerator;
        total += numerator;
    }
    return total;
}

/* Weighted sums of four elements of the values, whose rows lie `step` bytes apart; in C:
 *     for (e = 0; e < 4; e++, values += step) for (sums[e] = j = 0; j < count; j++) sums[e] += p[j] * values[j]; */
#define DEFINE_SUMS(V)                                                                                                           \
    __attribute__((naked, noinline)) static void sums_##V(                                                                       \
        const int16_t *p __attribute__((unused)), const PF_TYPE_##V *values __attribute__((unused)),                             \
        int32_t step __attribute__((unused)), int32_t count __attribute__((unused)), int64_t sums[4] __attribute__((unused))) {  \
        __asm__ volatile(" push {r4-r11, lr}\n"                                                                                  \
                         " mov r12, r0\n dlstp.16 lr, r3\n mov r0, r1\n add r1, r0, r2\n add r3, r1, r2\n add r2, r3, r2\n"      \
                         " movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n"                                              \
                         " mov r8, r4\n mov r9, r4\n mov r10, r4\n mov r11, r4\n"                                                \
                         "1: vldrh.u16 q0, [r12], #16\n"                                                                         \
                         " " LOAD_EIGHT_##V " q1, [r0], #" EIGHT_BYTES_##V "\n vmlaldava.s16 r4, r5, q0, q1\n"                   \
                                                                           " " LOAD_EIGHT_##V " q2, [r1], #" EIGHT_BYTES_##V     \
                         "\n vmlaldava.s16 r6, r7, q0, q2\n"                                                                     \
                         " " LOAD_EIGHT_##V " q3, [r3], #" EIGHT_BYTES_##V "\n vmlaldava.s16 r8, r9, q0, q3\n"                   \
                                                                           " " LOAD_EIGHT_##V " q1, [r2], #" EIGHT_BYTES_##V     \
                         "\n vmlaldava.s16 r10, r11, q0, q1\n"                                                                   \
                         " letp lr, 1b\n"                                                                                        \
                         " ldr r0, [sp, #36]\n"                                                                                  \
                         " stmia.w r0, {r4-r11}\n"                                                                               \
                         " pop {r4-r11, pc}\n");                                                                                 \
    }

/* Adds a slope; whether a distance to the largest score may pass 31 bits. */
__attribute__((noinline)) static int32_t add_slope(int32_t *scores, int32_t count, int32_t slope) {
    int32_t top = INT32_MIN, least = INT32_MAX;
    for (int32_t j = 0; j < count; j++) {
        const int32_t score = scores[j] + (int32_t)pf_rounding_shift((int64_t)slope * j, 8);
        scores[j] = score;
        top = score > top ? score : top;
        least = score < least ? score : least;
    }
    return (uint32_t)top - (uint32_t)least > INT32_MAX;
}

#define DEFINE_GROUP(K, V, OUT)                                                                                                  \
    void pf_cached_attention_group_##K##_##V##_##OUT(const pf_cached_attention *a, const int16_t *q, const PF_TYPE_##K *keys,    \
                                                     const PF_TYPE_##V *values, PF_TYPE_##OUT *y, int32_t head, int32_t count,   \
                                                     void *scratch) {                                                            \
        const int32_t size = a->head_size, last = head + a->heads / a->kv_heads, drop = a->value_shift;                          \
        int32_t *const scores = scratch;                                                                                         \
        int16_t *const p = (int16_t *)(void *)(scores + ((count + 7) & ~7)), *const narrow = p + ((count + 7) & ~7);             \
        for (; head < last; head++, q += size, y += a->value_size) {                                                             \
            vstrhq_s16(narrow + (size - 1) / 8 * 8, vdupq_n_s16(0));                                                             \
            for (int32_t d = 0; d < size; d++) {                                                                                 \
                narrow[d] = (int16_t)pf_narrow(q[d], a->query_drop);                                                             \
            }                                                                                                                    \
            scores_##K(narrow, keys, size, a->kv_heads *size, scores, count);                                                    \
            const int32_t is_far = a->slope_multiplier != 0 ? add_slope(scores, count, a->slope_multiplier[head]) : 0;           \
            const uint32_t total = find_numerators(a, scores, p, count, find_top(scores, count), is_far);                        \
            const pf_factor f = pf_scaled_reciprocal(a->value_mantissa, a->value_exponent, total);                               \
            const int64_t drop_half = (int64_t)1 << drop >> 1;                                                                   \
            const int32_t half = (int32_t)1 << ((f.shift - 33) & 31), shift = f.shift - 32;                                      \
            const int32_t step = a->positions * (int32_t)sizeof *values;                                                         \
            for (int32_t e = 0, some; e < a->value_size; e += some) {                                                            \
                int64_t sums[4];                                                                                                 \
                some = a->value_size - e < 4 ? 1 : 4;                                                                            \
                sums_##V(p, values + e * a->positions, some == 4 ? step : 0, count, sums);                                       \
                for (int32_t i = 0; i < some; i++) {                                                                             \
                    const int32_t sum = (int32_t)((sums[i] + drop_half) >> drop);                                                \
                    if (shift > 0) {                                                                                             \
                        const int32_t value = (pf_high(sum, f.multiplier) + half) >> shift;                                      \
                        y[e + i] = PF_SATURATE(OUT, value);                                                                      \
                    } else {                                                                                                     \
                        const int64_t value = pf_rounding_shift((int64_t)sum * f.multiplier, f.shift);                           \
                        y[e + i] = PF_SATURATE(OUT, value);                                                                      \
                    }                                                                                                            \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#endif
