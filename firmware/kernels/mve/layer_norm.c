/* Layer normalization: sums by vectors, the factors of four rows at a time, eight elements at a time by rounded high words. */
#include <arm_mve.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/ops.h"

typedef struct sums {
    uint64_t squares;
    int32_t total;
} sums;

/* In C: for (; count > 0; count--, x++) total += *x, squares += *x * *x; with as many at a time as a vector has. */
#define DEFINE_SUMS(IN, LOOP, LOAD, ADD, MULTIPLY)                                                                               \
    __attribute__((naked, noinline)) static void sums_##IN(const PF_TYPE_##IN *x __attribute__((unused)),                        \
                                                           int32_t count __attribute__((unused)),                                \
                                                           sums *out __attribute__((unused))) {                                  \
        __asm__ volatile(" push {r4, lr}\n"                                                                                      \
                         " mov r12, r2\n"                                                                                        \
                         " mov r2, #0\n"                                                                                         \
                         " mov r3, #0\n"                                                                                         \
                         " mov r4, #0\n"                                                                                         \
                         " " LOOP " lr, r1\n"                                                                                    \
                         "1: " LOAD " q0, [r0], #16\n"                                                                           \
                         " " ADD " r4, q0\n"                                                                                     \
                         " " MULTIPLY ", q0, q0\n"                                                                               \
                         " letp lr, 1b\n"                                                                                        \
                         " stm r12, {r2, r3, r4}\n"                                                                              \
                         " pop {r4, pc}\n");                                                                                     \
    }
DEFINE_SUMS(s8, "dlstp.8", "vldrb.u8", "vaddva.s8", "vmladava.s8 r2")
DEFINE_SUMS(s16, "dlstp.16", "vldrh.u16", "vaddva.s16", "vmlaldava.s16 r2, r3")

/* What is the same for a row: u = rounded high word of (x * slope + start) * multiplier. With scale = 2^(32-shift), slope is
 * width * scale and start -total * scale; both may pass 32 bits while their sum does not (see the generic kernel). */
typedef struct line {
    uint32_t slope, start;
    int32_t multiplier, zero_point;
} line;

#define BATCH 4

/* Where the factor's low word matters: that of SPEC.md in 64 bits. */
static int32_t rounded_factor(uint32_t high, uint32_t low, int32_t drop) {
    const uint64_t product = (uint64_t)high << 32 | low;
    const uint64_t rounded = drop > 0 ? (product + ((uint64_t)1 << (drop - 1))) >> drop : product;
    return rounded > INT32_MAX ? INT32_MAX : (int32_t)rounded;
}

/* The lines of BATCH rows: pf_row_factor of each, with the reciprocal square roots together. */
static void find_lines(const pf_layer_norm *p, const sums *s, line *lines) {
    uint32_t scaled[BATCH], half_leads[BATCH], highs[BATCH], lows[BATCH];
    int32_t shifts[BATCH], drops[BATCH], multipliers[BATCH];
    for (int32_t c = 0; c < BATCH; c++) {
        uint64_t variance = (uint64_t)(uint32_t)p->width * s[c].squares - (uint64_t)((int64_t)s[c].total * s[c].total);
        variance += (uint64_t)p->epsilon;
        uint32_t high = (uint32_t)(variance >> 32), low = (uint32_t)variance;
        uint32_t twice = 0; /* a shift of 32 first where the high word is empty */
        if (high == 0) {
            high = low != 0 ? low : 1u; /* a variance of 0 counts as 1 */
            low = 0;
            twice = 32;
        }
        const uint32_t lead = (uint32_t)__builtin_clz(high) & ~1u;
        scaled[c] = lead != 0 ? high << lead | low >> (32 - lead) : high;
        half_leads[c] = (lead + twice) >> 1;
    }
    const uint32x4_t f = vld1q_u32(scaled), half_lead = vld1q_u32(half_leads), one = vdupq_n_u32(0x80000000u);
    uint32x4_t y = vsubq_u32(vdupq_n_u32(0x8C000000u), vmulhq_u32(f, vdupq_n_u32(0x4E000000u)));
    for (int32_t i = 0; i < 4; i++) {
        const uint32x4_t error = vsubq_u32(vdupq_n_u32(0x30000000u), vmulhq_u32(f, vmulhq_u32(y, y)));
        y = vorrq_u32(vqshlq_n_u32(vmulhq_u32(y, error), 3), vshrq_n_u32(vmulq_u32(y, error), 29));
        y = vminq_u32(y, one);
    }
    const uint32x4_t mantissa = vdupq_n_u32((uint32_t)p->mantissa);
    const uint32x4_t high = vmulhq_u32(y, mantissa);
    const int32x4_t exponent = vsubq_s32(vdupq_n_s32(p->exponent + 62), vreinterpretq_s32_u32(half_lead));
    int32x4_t shift = vaddq_s32(exponent, vreinterpretq_s32_u32(vclzq_u32(high)));
    shift = vminq_s32(vmaxq_s32(vsubq_s32(shift, vdupq_n_s32(33)), vdupq_n_s32(2)), vdupq_n_s32(32));
    const int32x4_t drop = vsubq_s32(exponent, shift), right = vmaxq_s32(vsubq_s32(vdupq_n_s32(32), drop), vdupq_n_s32(-32));
    vst1q_s32(shifts, shift);
    vst1q_s32(drops, drop);
    vst1q_s32(multipliers, vreinterpretq_s32_u32(vrshlq_u32(high, right)));
    vst1q_u32(highs, high);
    vst1q_u32(lows, vmulq_u32(y, mantissa));
    for (int32_t c = 0; c < BATCH; c++) {
        const int32_t left = 32 - shifts[c];
        lines[c].slope = (uint32_t)p->width << left;
        lines[c].start = 0u - ((uint32_t)s[c].total << left);
        lines[c].multiplier = drops[c] > 32 ? multipliers[c] : rounded_factor(highs[c], lows[c], drops[c]);
        lines[c].zero_point = p->zero_point;
    }
}

/* In C: for (; count > 0; count--) *y++ = clamp(u + zero_point) of *x++. Even and odd elements part on the way to 32 bits and
 * meet again on the way back. */
#define EIGHT                                                                                                                    \
    " vmovlb.s16 q3, q0\n"                                                                                                       \
    " vmovlt.s16 q0, q0\n"                                                                                                       \
    " vmlas.s32 q3, q1, r5\n"                                                                                                    \
    " vmlas.s32 q0, q1, r5\n"                                                                                                    \
    " vrmulh.s32 q3, q3, q2\n"                                                                                                   \
    " vrmulh.s32 q0, q0, q2\n"                                                                                                   \
    " vqmovnb.s32 q3, q3\n"                                                                                                      \
    " vqmovnt.s32 q3, q0\n"                                                                                                      \
    " vqadd.s16 q3, q3, r12\n"
#define LOAD_s8(T)   " vldrb" T ".s16 q0, [r1], #8\n"
#define LOAD_s16(T)  " vldrh" T ".u16 q0, [r1], #16\n"
#define STORE_s8(T)  " vstrb" T ".16 q3, [r2], #8\n"
#define STORE_s16(T) " vstrh" T ".16 q3, [r2], #16\n"
#define CLAMP_s8     " vqmovnb.s16 q3, q3\n"
#define CLAMP_s16

#define LOAD_FOUR_s8   "vldrb.s32 q0, [r1], #4\n"
#define LOAD_FOUR_s16  "vldrh.s32 q0, [r1], #8\n"
#define STORE_FOUR_s8  " vqmovnb.s16 q4, q4\n vstrb.32 q4, [r2], #4\n"
#define STORE_FOUR_s16 " vstrh.32 q4, [r2], #8\n"

/* Rows with a gain, for a shift above 32: low words of a sum of 64 bits matter by their carry only. In C, with u as above:
 *     for (; count > 0; count--) *y++ = clamp(zero_point + rounded (u * *gain++ + *offset++) >> shift); */
#define DEFINE_GAINED(IN, OUT)                                                                                                   \
    __attribute__((naked, noinline)) static void gained_##IN##_##OUT(                                                            \
        const line *l __attribute__((unused)), const PF_TYPE_##IN *x __attribute__((unused)),                                    \
        PF_TYPE_##OUT *y __attribute__((unused)), int32_t count __attribute__((unused)),                                         \
        const int64_t *offset __attribute__((unused)), const int32_t *gain __attribute__((unused)),                              \
        int32_t minus_shift __attribute__((unused))) {                                                                           \
        __asm__ volatile(" push {r4-r8, lr}\n"                                                                                   \
                         " vpush {d8-d15}\n"                                                                                     \
                         " ldm r0, {r4, r5, r6, r12}\n"                                                                          \
                         " vdup.32 q6, r4\n"                                                                                     \
                         " vdup.32 q7, r6\n"                                                                                     \
                         " ldrd r4, r7, [sp, #88]\n"                                                                             \
                         " ldr r8, [sp, #96]\n"                                                                                  \
                         " sub r4, #32\n"                                                                                        \
                         " vidup.u32 q5, r4, #8\n"                                                                               \
                         " mov r6, #1\n"                                                                                         \
                         " dlstp.32 lr, r3\n"                                                                                    \
                         "1: " LOAD_FOUR_##IN " vmlas.s32 q0, q6, r5\n"                                                          \
                                              " vrmulh.s32 q0, q0, q7\n"                                                         \
                                              " vldrw.u32 q1, [r7], #16\n"                                                       \
                                              " vldrw.u32 q2, [q5, #32]!\n"                                                      \
                                              " vldrw.u32 q3, [q5, #4]\n"                                                        \
                                              " vmulh.s32 q4, q0, q1\n"                                                          \
                                              " vmul.i32 q0, q0, q1\n"                                                           \
                                              " vadd.i32 q0, q0, q2\n"                                                           \
                                              " vadd.i32 q4, q4, q3\n"                                                           \
                                              " vcmp.u32 hi, q2, q0\n"                                                           \
                                              " vpst\n"                                                                          \
                                              " vaddt.i32 q4, q4, r6\n"                                                          \
                                              " vrshl.s32 q4, r8\n"                                                              \
                                              " vqmovnb.s32 q4, q4\n"                                                            \
                                              " vqadd.s16 q4, q4, r12\n" STORE_FOUR_##OUT " letp lr, 1b\n"                       \
                                                                                          " vpop {d8-d15}\n"                     \
                                                                                          " pop {r4-r8, pc}\n");                 \
    }

/* The same for any shift. */
#define DEFINE_GAINED_EXACTLY(IN, OUT)                                                                                           \
    __attribute__((noinline)) static void gained_exactly_##IN##_##OUT(const line *l, const pf_layer_norm *p,                     \
                                                                      const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                 \
        for (int32_t i = 0; i < p->width; i++) {                                                                                 \
            const int32_t d = (int32_t)((uint32_t)x[i] * l->slope + l->start);                                                   \
            const int64_t u = ((int64_t)d * l->multiplier + ((int64_t)1 << 31)) >> 32;                                           \
            const int64_t value = p->zero_point + pf_rounding_shift(u * p->gain[i] + p->offset[i], p->shift);                    \
            y[i] = PF_SATURATE(OUT, value);                                                                                      \
        }                                                                                                                        \
    }

/* All rows; ONE: what becomes of row c of a batch. */
#define DEFINE_ROWS(SYMBOL, IN, OUT, ONE)                                                                                        \
    void SYMBOL(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y, int32_t rows) {                                 \
        sums s[BATCH];                                                                                                           \
        line lines[BATCH];                                                                                                       \
        for (int32_t batch; rows > 0; rows -= batch) {                                                                           \
            batch = rows < BATCH ? rows : BATCH;                                                                                 \
            for (int32_t c = 0; c < BATCH; c++) {                                                                                \
                sums_##IN(x + (c < batch ? c : 0) * p->width, p->width, s + c);                                                  \
            }                                                                                                                    \
            find_lines(p, s, lines);                                                                                             \
            for (int32_t c = 0; c < batch; c++, x += p->width, y += p->width) {                                                  \
                ONE;                                                                                                             \
            }                                                                                                                    \
        }                                                                                                                        \
    }

#define DEFINE_ROW(IN, OUT)                                                                                                      \
    __attribute__((naked, noinline)) static void elements_##IN##_##OUT(                                                          \
        const line *l __attribute__((unused)), const PF_TYPE_##IN *x __attribute__((unused)),                                    \
        PF_TYPE_##OUT *y __attribute__((unused)), int32_t count __attribute__((unused))) {                                       \
        __asm__ volatile(" push {r4-r6, lr}\n"                                                                                   \
                         " ldm r0, {r4, r5, r6, r12}\n"                                                                          \
                         " vdup.32 q1, r4\n"                                                                                     \
                         " vdup.32 q2, r6\n"                                                                                     \
                         " lsr r0, r3, #3\n"                                                                                     \
                         " wls lr, r0, 2f\n"                                                                                     \
                         "1:\n" LOAD_##IN("") EIGHT CLAMP_##OUT STORE_##OUT("") " le lr, 1b\n"                                   \
                                                                                "2: ands r3, r3, #7\n"                           \
                                                                                " beq 3f\n"                                      \
                                                                                " vctp.16 r3\n"                                  \
                                                                                " vpst\n" LOAD_##IN("t") EIGHT CLAMP_##OUT       \
                         " vpst\n" STORE_##OUT("t") "3: pop {r4-r6, pc}\n");                                                     \
    }                                                                                                                            \
    DEFINE_GAINED(IN, OUT)                                                                                                       \
    DEFINE_GAINED_EXACTLY(IN, OUT)                                                                                               \
    DEFINE_ROWS(pf_layer_norm_##IN##_##OUT, IN, OUT, elements_##IN##_##OUT(lines + c, x, y, p->width))                           \
    DEFINE_ROWS(pf_layer_norm_gain_##IN##_##OUT, IN, OUT,                                                                        \
                if (p->shift > 32) gained_##IN##_##OUT(lines + c, x, y, p->width, p->offset, p->gain, 32 - p->shift);            \
                else gained_exactly_##IN##_##OUT(lines + c, p, x, y))

DEFINE_ROW(s8, s8)
DEFINE_ROW(s8, s16)
DEFINE_ROW(s16, s8)
DEFINE_ROW(s16, s16)
