/* Layer normalization of one row: both sums by vectors, eight elements at a time by rounded high words. */
#include <arm_mve.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"
#include "picoformer/layer_norm_factor.h"

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

#define DEFINE_LINE(IN)                                                                                                          \
    static line line_##IN(const pf_layer_norm *p, const PF_TYPE_##IN *x) {                                                       \
        sums s;                                                                                                                  \
        sums_##IN(x, p->width, &s);                                                                                              \
        const pf_factor f = pf_row_factor(p, s.total, s.squares);                                                                \
        const uint32_t scale = (uint32_t)1 << (32 - f.shift);                                                                    \
        const line result = {(uint32_t)p->width * scale, 0u - (uint32_t)s.total * scale, f.multiplier, p->zero_point};           \
        return result;                                                                                                           \
    }
DEFINE_LINE(s8)
DEFINE_LINE(s16)

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

#define WIDEN_s8(X, THERE)  vldrbq_z_s32(X, THERE)
#define WIDEN_s16(X, THERE) vldrhq_z_s32(X, THERE)
#define STORE_FOUR_s8(Y, VALUE, THERE)                                                                                           \
    vstrbq_p_s32(Y, vmaxq_s32(vminq_s32(VALUE, vdupq_n_s32(PF_MAX_s8)), vdupq_n_s32(PF_MIN_s8)), THERE)
#define STORE_FOUR_s16(Y, VALUE, THERE)                                                                                          \
    vstrhq_p_s32(Y, vmaxq_s32(vminq_s32(VALUE, vdupq_n_s32(PF_MAX_s16)), vdupq_n_s32(PF_MIN_s16)), THERE)

/* (u * gain + offset + 2^(shift-1)) >> shift for a shift above 32: the low words of the sum matter by their carry only. */
static inline int32x4_t gained(const pf_layer_norm *p, int32_t i, int32x4_t u, mve_pred16_t there) {
    const int32x4_t gain = vld1q_z_s32(p->gain + i, there);
    const uint32x4_t words = vidupq_n_u32(0, 2);
    const uint32_t *offset = (const uint32_t *)(const void *)(p->offset + i);
    const uint32x4_t low = vldrwq_gather_shifted_offset_z_u32(offset, words, there);
    const uint32x4_t offset_high = vldrwq_gather_shifted_offset_z_u32(offset + 1, words, there);
    const uint32x4_t sum = vaddq_u32(vreinterpretq_u32_s32(vmulq_s32(u, gain)), low);
    int32x4_t high = vaddq_s32(vmulhq_s32(u, gain), vreinterpretq_s32_u32(offset_high));
    high = vaddq_m_n_s32(high, high, 1, vcmphiq_u32(low, sum));
    return vrshlq_n_s32(high, 32 - p->shift);
}

/* The same for any shift, clamped to 17 bits. */
static int32x4_t gained_exactly(const pf_layer_norm *p, int32_t i, int32x4_t u) {
    int32_t values[4];
    vst1q_s32(values, u);
    for (int32_t c = 0; c < 4 && i + c < p->width; c++) {
        const int64_t value = pf_rounding_shift((int64_t)values[c] * p->gain[i + c] + p->offset[i + c], p->shift);
        values[c] = value < -65536 ? -65536 : value > 65535 ? 65535 : (int32_t)value;
    }
    return vld1q_s32(values);
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
                         "2: ands r3, r3, #7\n"                                                                                  \
                         " beq 3f\n"                                                                                             \
                         " vctp.16 r3\n"                                                                                         \
                         " vpst\n" LOAD_##IN("t") EIGHT CLAMP_##OUT " vpst\n" STORE_##OUT("t") "3: pop {r4-r6, pc}\n");          \
    }                                                                                                                            \
    void pf_layer_norm_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                       \
        const line l = line_##IN(p, x);                                                                                          \
        elements_##IN##_##OUT(&l, x, y, p->width);                                                                               \
    }                                                                                                                            \
    void pf_layer_norm_gain_row_##IN##_##OUT(const pf_layer_norm *p, const PF_TYPE_##IN *x, PF_TYPE_##OUT *y) {                  \
        const line l = line_##IN(p, x);                                                                                          \
        const int32x4_t multiplier = vdupq_n_s32(l.multiplier), slope = vdupq_n_s32((int32_t)l.slope);                           \
        for (int32_t i = 0; i < p->width; i += 4) {                                                                              \
            const mve_pred16_t there = vctp32q((uint32_t)(p->width - i));                                                        \
            const int32x4_t d = vmlasq_n_s32(WIDEN_##IN(x + i, there), slope, (int32_t)l.start);                                 \
            const int32x4_t u = vrmulhq_s32(d, multiplier);                                                                      \
            const int32x4_t value = p->shift > 32 ? gained(p, i, u, there) : gained_exactly(p, i, u);                            \
            STORE_FOUR_##OUT(y + i, vqaddq_n_s32(value, l.zero_point), there);                                                   \
        }                                                                                                                        \
    }

DEFINE_ROW(s8, s8)
DEFINE_ROW(s8, s16)
DEFINE_ROW(s16, s8)
DEFINE_ROW(s16, s16)
