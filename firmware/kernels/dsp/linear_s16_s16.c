/* Linear layers with int16 weights on int16 activations for SMLALD: an output at a time, its sum rescaled in 64 bits. */
#include "picoformer/linear_output.h"
#include "picoformer/ops.h"

enum {
    WORDS = 5,        /* of a group: as many of x and of the weights as there are registers for */
    TURN = 16,        /* groups that the unrolled loop takes */
    GROUP_BYTES = 26, /* of its code */
    KEPT = 16,        /* outputs whose sums are kept at a time, where plain C makes the ending */
};

/* What `outputs` keeps on the stack: four words begin an output, the last seven its ending. */
typedef struct frame {
    const int16_t *x;
    int32_t start[2];
    uint32_t begin;       /* one of the rests, or `entry` */
    const int16_t *x_end; /* of what the loop takes */
    uint32_t entry;       /* into the loop, or behind it */
    uint32_t finish;
    const int32_t *bias, *multiplier;
    void *y;
    const void *end; /* of y */
    int32_t left, zero_point;
} frame;
typedef char frame_is_as_the_code_reads_it[sizeof(frame) == 52 ? 1 : -1];

/* Labels inside `outputs`. */
void pf_dsp_words_rest_1(void), pf_dsp_words_rest_2(void), pf_dsp_words_rest_3(void), pf_dsp_words_rest_4(void),
    pf_dsp_words_loop(void), pf_dsp_words_sum(void), pf_dsp_words_end(void);

#define LABEL(NAME)   " .global " #NAME "\n .thumb_func\n" #NAME ":\n"
#define NEXT          " ldm.w sp, {r1, r11, r12, pc}\n"
#define PRODUCT(W, X) " smlald r12, r11, " W ", " X "\n"
#define REST(N, W, X, PRODUCTS)                                                                                                  \
    LABEL(pf_dsp_words_rest_##N) " ldmia.n r0!, {" W "}\n ldmia.w r1!, {" X "}\n" PRODUCTS " ldr.w pc, [sp, #20]\n"

#define ENTER                                                                                                                    \
    " push {r4-r11, lr}\n sub sp, #56\n mov r2, sp\n ldmia.w r1!, {r3-r8}\n stmia.w r2!, {r3-r8}\n"                              \
    " ldmia.w r1, {r3-r9}\n stmia.w r2, {r3-r9}\n" NEXT
#define REST_1                                                                                                                   \
    LABEL(pf_dsp_words_rest_1) " ldr.w r2, [r0], #4\n ldr.w r7, [r1], #4\n" PRODUCT("r2", "r7") " ldr.w pc, [sp, #20]\n"
#define REST_2 REST(2, "r2, r3", "r7, r8", PRODUCT("r2", "r7") PRODUCT("r3", "r8"))
#define REST_3 REST(3, "r2-r4", "r7-r9", PRODUCT("r2", "r7") PRODUCT("r3", "r8") PRODUCT("r4", "r9"))
#define REST_4 REST(4, "r2-r5", "r7-r10", PRODUCT("r2", "r7") PRODUCT("r3", "r8") PRODUCT("r4", "r9") PRODUCT("r5", "r10"))
#define LOOP                                                                                                                     \
    LABEL(pf_dsp_words_loop)                                                                                                     \
    " .rept 16\n ldmia.n r0!, {r2-r6}\n ldmia.w r1!, {r7-r10, lr}\n" PRODUCT("r2", "r7") PRODUCT("r3", "r8") PRODUCT("r4", "r9") \
        PRODUCT("r5", "r10") PRODUCT("r6", "lr") " .endr\n ldr.w r2, [sp, #16]\n cmp r1, r2\n"                                   \
                                                 " bne.w pf_dsp_words_loop\n"
#define LEAVE LABEL(pf_dsp_words_sum) " ldr.w pc, [sp, #24]\n" LABEL(pf_dsp_words_end) " add sp, #56\n pop {r4-r11, pc}\n"

/* For each output; in C: for (sum = j = 0; j < columns; j++) sum += w[j] * x[j]; the sum is in r12, r11. */
__attribute__((naked, noinline)) static void outputs(const int16_t *weight __attribute__((unused)),
                                                     const frame *f __attribute__((unused))) {
    __asm__ volatile(ENTER REST_4 REST_3 REST_2 REST_1 LOOP LEAVE);
}

/* Endings: jumped to, not called; r0 shows the weights of the next output. */
#define DEFINE_CODE(NAME, CODE)                                                                                                  \
    __attribute__((naked, noinline)) static void NAME(void) {                                                                    \
        __asm__ volatile(CODE " beq.w pf_dsp_words_end\n" NEXT);                                                                 \
    }

/* In C: y = clamp(zero_point + (((sum + bias) << left) * multiplier + 2^31 >> 32)), the product of a 64-bit sum in two parts:
 * high and low word by the multiplier. lr shows the last words of the frame: r2 bias, r3 multiplier, r4 y, r5 end, r6 left, r7
 * zero point. */
#define SUM                                                                                                                      \
    " add.w lr, sp, #28\n ldm.w lr, {r2-r7}\n ldr.w r8, [r2], #4\n adds.w r12, r12, r8\n adc.w r11, r11, r8, asr #31\n"          \
    " ldr.w r8, [r3], #4\n"
#define SHIFT " rsb.w r9, r6, #32\n lsl.w r11, r11, r6\n lsr.w r9, r12, r9\n orr.w r11, r11, r9\n lsl.w r12, r12, r6\n"
#define RESCALE                                                                                                                  \
    " umull r9, r10, r12, r8\n movs r1, #0\n adds.w r9, r9, #0x80000000\n adc.w r10, r10, r1\n smlal r10, r1, r11, r8\n"         \
    " cmp.w r1, r10, asr #31\n beq.n 1f\n mvn.w r10, #0x80000000\n eor.w r10, r10, r1, asr #31\n1: qadd r10, r10, r7\n"
#define KEEP(BITS, STORE, STEP) " ssat r10, #" BITS ", r10\n " STORE " r10, [r4], #" STEP "\n stmia.w lr, {r2-r4}\n cmp r4, r5\n"

DEFINE_CODE(plain_s8, SUM RESCALE KEEP("8", "strb", "1"))
DEFINE_CODE(plain_s16, SUM RESCALE KEEP("16", "strh", "2"))
DEFINE_CODE(shifted_s8, SUM SHIFT RESCALE KEEP("8", "strb", "1"))
DEFINE_CODE(shifted_s16, SUM SHIFT RESCALE KEEP("16", "strh", "2"))
/* The sums as they are to y, for plain C. */
DEFINE_CODE(keep, " ldrd r4, r5, [sp, #36]\n strd r12, r11, [r4], #8\n str r4, [sp, #36]\n cmp r4, r5\n")

static inline uint32_t code(void (*label)(void)) {
    return (uint32_t)(uintptr_t)label;
}

/* One row where x and the weights lie in words. */
static void words(const pf_linear_w16 *p, const int16_t *x, void *y, int32_t out_bytes) {
    static void (*const rests[WORDS])(void) = {0, pf_dsp_words_rest_1, pf_dsp_words_rest_2, pf_dsp_words_rest_3,
                                               pf_dsp_words_rest_4};
    static void (*const plain[2][2])(void) = {{plain_s8, shifted_s8}, {plain_s16, shifted_s16}};
    const uint32_t count = (uint32_t)p->k / 2u, groups = count / WORDS, rest = count % WORDS, first = (groups + TURN - 1u) % TURN;
    frame f;
    f.x = x;
    f.start[0] = f.start[1] = 0;
    f.x_end = x + p->k;
    f.entry = groups == 0u ? code(pf_dsp_words_sum) : code(pf_dsp_words_loop) + (TURN - 1u - first) * GROUP_BYTES;
    f.begin = rest != 0u ? code(rests[rest]) : f.entry;
    f.left = 32 - p->shift;
    if (p->entries == 0) {
        f.finish = code(plain[out_bytes - 1][f.left > 0]);
        f.bias = p->bias;
        f.multiplier = p->multiplier;
        f.y = y;
        f.end = (const char *)y + p->n * out_bytes;
        f.zero_point = p->zero_point;
        outputs(p->weight, &f);
        return;
    }
    int64_t sums[KEPT];
    f.finish = code(keep);
    for (int32_t i = 0; i < p->n; i += KEPT) {
        const int32_t some = p->n - i < KEPT ? p->n - i : KEPT;
        f.y = sums;
        f.end = sums + some;
        outputs(p->weight + i * p->k, &f);
        for (int32_t c = 0, o = i; c < some; c++, o++) {
            const int32_t value = p->zero_point + pf_rescale_wide(p->bias[o] + sums[c], p->multiplier[o], p->shift);
            if (out_bytes == 1) {
                int8_t *const to = (int8_t *)y + o;
                *to = pf_linear_s8(p->table, p->entries, *to, value);
            } else {
                int16_t *const to = (int16_t *)y + o;
                *to = pf_linear_s16(p->table, p->entries, *to, value);
            }
        }
    }
}

#define DEFINE_LINEAR_W16(OUT)                                                                                                   \
    void pf_linear_s16_s16_##OUT(const pf_linear_w16 *p, const int16_t *x, PF_TYPE_##OUT *y, int32_t rows, void *scratch) {      \
        (void)scratch;                                                                                                           \
        const int32_t n = p->n, k = p->k;                                                                                        \
        for (int32_t r = 0; r < rows; r++, x += k, y += n) {                                                                     \
            if ((((uintptr_t)x | (uintptr_t)p->weight | (uint32_t)k << 1) & 3u) == 0u) {                                         \
                words(p, x, y, (int32_t)sizeof *y);                                                                              \
                continue;                                                                                                        \
            }                                                                                                                    \
            const int16_t *w = p->weight;                                                                                        \
            for (int32_t i = 0; i < n; i++, w += k) {                                                                            \
                int64_t sum = p->bias[i];                                                                                        \
                for (int32_t j = 0; j < k; j++) {                                                                                \
                    sum += (int32_t)w[j] * x[j];                                                                                 \
                }                                                                                                                \
                const int32_t value = p->zero_point + pf_rescale_wide(sum, p->multiplier[i], p->shift);                          \
                y[i] = pf_linear_##OUT(p->table, p->entries, y[i], value);                                                       \
            }                                                                                                                    \
        }                                                                                                                        \
    }

DEFINE_LINEAR_W16(s8)
DEFINE_LINEAR_W16(s16)
