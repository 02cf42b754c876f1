/* Sums of two lines of elements, each on its own grid: four at a time, the sum's low and high words apart. */
#include <arm_mve.h>

#include "picoformer/fixedpoint.h"
#include "picoformer/kernels.h"

typedef struct factors {
    int32x4_t a, b, high;
    uint32x4_t low;
    int32_t right, left;
} factors;

/* (offset + a * multiplier_a + b * multiplier_b) >> shift, saturated to 32 bits. */
static inline int32x4_t sum_of(const factors *f, int32x4_t a, int32x4_t b) {
    const uint32x4_t low_b = vreinterpretq_u32_s32(vmulq_s32(b, f->b));
    const uint32x4_t one = vaddq_u32(vreinterpretq_u32_s32(vmulq_s32(a, f->a)), f->low), low = vaddq_u32(one, low_b);
    int32x4_t high = vaddq_s32(vaddq_s32(vmulhq_s32(a, f->a), vmulhq_s32(b, f->b)), f->high);
    high = vaddq_m_n_s32(high, high, 1, vcmphiq_u32(f->low, one));
    high = vaddq_m_n_s32(high, high, 1, vcmphiq_u32(low_b, low));
    return vorrq_s32(vqshlq_r_s32(high, f->left), vreinterpretq_s32_u32(vshlq_r_u32(low, f->right)));
}

#define LOAD_s8(X, THERE)  vldrbq_z_s32(X, THERE)
#define LOAD_s16(X, THERE) vldrhq_z_s32(X, THERE)
#define STORE_s8(Y, VALUE, THERE)                                                                                                \
    vstrbq_p_s32(Y, vmaxq_s32(vminq_s32(VALUE, vdupq_n_s32(PF_MAX_s8)), vdupq_n_s32(PF_MIN_s8)), THERE)
#define STORE_s16(Y, VALUE, THERE)                                                                                               \
    vstrhq_p_s32(Y, vmaxq_s32(vminq_s32(VALUE, vdupq_n_s32(PF_MAX_s16)), vdupq_n_s32(PF_MIN_s16)), THERE)

#define DEFINE_ADD(A, B, OUT)                                                                                                    \
    void pf_add_span_##A##_##B##_##OUT(const pf_add *p, const PF_TYPE_##A *a, const PF_TYPE_##B *b, int32_t b_step,              \
                                       PF_TYPE_##OUT *y, int32_t count) {                                                        \
        const int64_t offset = p->offset + ((int64_t)1 << (p->shift - 1));                                                       \
        const factors f = {vdupq_n_s32(p->multiplier_a), vdupq_n_s32(p->multiplier_b), vdupq_n_s32((int32_t)(offset >> 32)),     \
                           vdupq_n_u32((uint32_t)offset), -p->shift, 32 - p->shift};                                             \
        for (int32_t i = 0; i < count; i += 4, b += 4 * b_step) {                                                                \
            const mve_pred16_t there = vctp32q((uint32_t)(count - i));                                                           \
            const int32x4_t second = b_step == 1 ? LOAD_##B(b, there) : vdupq_n_s32(*b);                                         \
            STORE_##OUT(y + i, sum_of(&f, LOAD_##A(a + i, there), second), there);                                               \
        }                                                                                                                        \
    }

DEFINE_ADD(s8, s8, s8)
DEFINE_ADD(s8, s8, s16)
DEFINE_ADD(s8, s16, s8)
DEFINE_ADD(s8, s16, s16)
DEFINE_ADD(s16, s8, s8)
DEFINE_ADD(s16, s8, s16)
DEFINE_ADD(s16, s16, s8)
DEFINE_ADD(s16, s16, s16)
