/* The linear layer for SMLAD: two outputs of two rows at a time, rescaled by one rounded high word, through a table or not, or
 * added to a residual.
 *
 * A block of rows of x is widened into the scratch once; then each pair of weight rows is widened in front of it and serves
 * the whole block. Two streams of words meet in the inner loop, and what comes after the products lies in them too, so that
 * nothing is counted or compared there:
 *   w: the pair of weight rows; then the words of `pf_dsp_ending`
 *   a: for each pair of rows of x: its elements, after each 64 of them the address where to go on; then its two rows of y */
#include "linear_strip.h"

#include "picoformer/linear_output.h"

#include "products.h"

enum {
    CHUNK = 64,       /* elements that the unrolled loop takes */
    GROUP_BYTES = 38, /* of its code, for four elements */
};

/* Behind a pair of weight rows, as the code below loads it. */
typedef struct pf_dsp_ending {
    uint32_t table; /* its entry for 0; without an activation anything; for `raw` where the four sums go */
    int32_t left;   /* what sums are shifted left by, for `shifted` */
    int32_t multiplier[2];
    int32_t zero_point;
    int32_t column[2]; /* bytes from a row of y to its two outputs; the same twice where there is no second */
    uint32_t after;    /* where to go on with the sums: `shifted` or `finish` */
    uint32_t finish;   /* one of the endings */
} pf_dsp_ending;

/* What `pairs` keeps on the stack; the first six words are taken by one LDM, the last of them by pc. */
typedef struct pf_dsp_frame {
    const uint32_t *w;
    int32_t start[4]; /* of the sums: the biases twice */
    uint32_t next;    /* `entry`; `end` while the last two rows are finished */
    const uint32_t *a;
    const int32_t *bias;
    const uint16_t *factor; /* at a word */
    const int32_t *bias_end;
    int32_t step; /* bytes of two outputs */
    const uint8_t *weight, *blocks;
    int32_t quads;
    void (*widen)(void);
    int32_t second; /* PF_DSP_BLOCKS */
    uint32_t entry; /* into the unrolled loop */
    uint32_t end;
} pf_dsp_frame;

/* Labels inside `pairs`. */
void pf_dsp_linear_loop(void), pf_dsp_linear_end(void);

#define LABEL(NAME) " .global " #NAME "\n .thumb_func\n" #NAME ":\n"

/* For each pair of weight rows and outputs, from bias to bias_end; in C, for two rows of x, each r of four:
 *     sum[r] = start[r]; for each element: sum[r] += w * x, as pf_dsp_products has it
 * in r9, r10 for the first row of x, r11, r12 for the second; r0 then shows the ending, r1 the rows of y. */
__attribute__((naked, noinline)) static void pairs(const pf_dsp_frame *frame __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " sub sp, #72\n"
                     " mov r1, sp\n"
                     " ldmia.w r0!, {r2-r10}\n"
                     " stmia.w r1!, {r2-r10}\n"
                     " ldmia.w r0!, {r2-r10}\n"
                     " stmia.w r1!, {r2-r10}\n"
                     "1: ldrd r0, r3, [sp, #44]\n"
                     " ldrd r2, r12, [sp, #52]\n"
                     " ldr r1, [sp]\n"
                     " blx r12\n"
                     " strd r0, r3, [sp, #44]\n"
                     " ldrd r2, r3, [sp, #28]\n"
                     " ldrd r4, r5, [r2], #8\n"
                     " ldr r8, [r3], #4\n"
                     " uxth r6, r8\n"
                     " and.w r9, r6, #15\n"
                     " lsl.w r6, r6, r9\n"
                     " lsrs.w r7, r8, #16\n"
                     " and.w r9, r7, #15\n"
                     " lsl.w r7, r7, r9\n"
                     " strd r2, r3, [sp, #28]\n"
                     " strd r4, r5, [sp, #4]\n"
                     " strd r4, r5, [sp, #12]\n"
                     " strd r6, r7, [r1, #8]\n"
                     " ldrd r4, r5, [r1, #20]\n"
                     " ldr r6, [sp, #40]\n"
                     " add r4, r6\n"
                     " add r5, r6\n"
                     " strd r4, r5, [r1, #20]\n"
                     " ldr r2, [sp, #64]\n"
                     " str r2, [sp, #20]\n"
                     " ldr r1, [sp, #24]\n"
                     " ldm.w sp, {r0, r9-r12, pc}\n" LABEL(pf_dsp_linear_loop) " .rept 16\n"
                                                                               " ldmia.n r0!, {r2-r5}\n"
                                                                               " ldmia.w r1!, {r6-r8, lr}\n"
                                                                               " smlad r9, r2, r6, r9\n"
                                                                               " smlad r10, r4, r6, r10\n"
                                                                               " smlad r11, r2, r8, r11\n"
                                                                               " smlad r12, r4, r8, r12\n"
                                                                               " smlad r9, r3, r7, r9\n"
                                                                               " smlad r10, r5, r7, r10\n"
                                                                               " smlad r11, r3, lr, r11\n"
                                                                               " smlad r12, r5, lr, r12\n"
                                                                               " .endr\n"
                                                                               " ldr.w pc, [r1], #4\n" LABEL(
                                                                                   pf_dsp_linear_end) " ldr r2, [sp, #28]\n"
                                                                                                      " ldr r3, [sp, #36]\n"
                                                                                                      " cmp r2, r3\n"
                                                                                                      " bne 1b\n"
                                                                                                      " add sp, #72\n"
                                                                                                      " pop {r4-r11, pc}\n");
}

/* What comes after the products: jumped to, not called. */
#define DEFINE_CODE(NAME, CODE)                                                                                                  \
    __attribute__((naked, noinline)) static void NAME(void) {                                                                    \
        __asm__ volatile(CODE);                                                                                                  \
    }
#define EACH(CODE) " .irp r, r9, r10, r11, r12\n" CODE " .endr\n"
#define GO_ON      " ldm.w sp, {r0, r9-r12, pc}\n"

/* The last two rows of x: after them to the end. */
DEFINE_CODE(last, " ldr r2, [sp, #68]\n str r2, [sp, #20]\n ldr.w pc, [r0, #28]\n")
/* sum <<= left */
DEFINE_CODE(shifted, " ldr r2, [r0, #4]\n" EACH(" lsl.w \\r, \\r, r2\n") " ldr.w pc, [r0, #32]\n")
DEFINE_CODE(raw, " ldr r2, [r0]\n stmia.w r2, {r9-r12}\n" GO_ON)

/* In C: y = activation(clamp(zero_point + rescale(sum))); a table is read by its middle. The line between its entries e0 and e1
 * at f of 128 is ((128 - f) * e0 + f * e1 + 64) >> 7, with f * 65535 + 128 the pair (128 - f, f). */
#define RESCALE                                                                                                                  \
    " ldm.w r0, {r0, r2-r7}\n ldmia.w r1!, {r8, lr}\n"                                                                           \
    " smmlar r9, r9, r3, r5\n smmlar r10, r10, r4, r5\n smmlar r11, r11, r3, r5\n smmlar r12, r12, r4, r5\n"
#define LIMIT(BITS) EACH(" ssat \\r, #" BITS ", \\r\n")
#define LINE(BITS)                                                                                                               \
    " movw r2, #65535\n movs r3, #128\n movs r5, #64\n" EACH(                                                                    \
        " asr.w r4, \\r, #7\n ldr.w r4, [r0, r4, lsl #1]\n and.w \\r, \\r, #127\n mla \\r, \\r, r2, r3\n"                        \
        " smlad \\r, \\r, r4, r5\n ssat \\r, #" BITS ", \\r, asr #7\n")
#define KEEP(STORE)                                                                                                              \
    " " STORE " r10, [r8, r7]\n " STORE " r12, [lr, r7]\n " STORE " r9, [r8, r6]\n " STORE " r11, [lr, r6]\n" GO_ON

DEFINE_CODE(plain_s8, RESCALE LIMIT("8") KEEP("strb.w"))
DEFINE_CODE(plain_s16, RESCALE LIMIT("16") KEEP("strh.w"))
/* Everything is loaded before anything is stored: outputs that are there twice get their residual once. */
DEFINE_CODE(
    added_s16,
    RESCALE LIMIT("16") " ldrsh.w r0, [r8, r7]\n ldrsh.w r2, [lr, r7]\n ldrsh.w r3, [r8, r6]\n ldrsh.w r4, [lr, r6]\n"
                        " qadd16 r10, r10, r0\n qadd16 r12, r12, r2\n qadd16 r9, r9, r3\n qadd16 r11, r11, r4\n" KEEP("strh.w"))
DEFINE_CODE(table_s8, RESCALE LIMIT("8") EACH(" ldrsb.w \\r, [r0, \\r]\n") KEEP("strb.w"))
DEFINE_CODE(table_s16, RESCALE LIMIT("8") EACH(" ldrsh.w \\r, [r0, \\r, lsl #1]\n") KEEP("strh.w"))
DEFINE_CODE(line_s8, RESCALE LIMIT("16") LINE("8") KEEP("strb.w"))
DEFINE_CODE(line_s16, RESCALE LIMIT("16") LINE("16") KEEP("strh.w"))

static inline uint32_t code(void (*label)(void)) {
    return (uint32_t)(uintptr_t)label;
}

/* What a sum ends as; *table becomes the address of its entry for 0. */
static uint32_t ending(int32_t entries, int32_t out_bytes, const char **table) {
    if (entries == 0) {
        return code(out_bytes == 1 ? plain_s8 : plain_s16);
    }
    if (entries == PF_RESIDUAL) {
        return code(added_s16);
    }
    if (entries == 256) {
        *table += 128 * out_bytes;
        return code(out_bytes == 1 ? table_s8 : table_s16);
    }
    *table += 256 * 2;
    return code(out_bytes == 1 ? line_s8 : line_s16);
}

/* Four sums as pf_rescale has them, where they may not be shifted left. */
__attribute__((noinline)) static void keep_exact(const pf_dsp_layer *layer, const int32_t *sums, int32_t i,
                                                 const uint32_t *rows) {
    for (int32_t c = 0; c < 4; c++) {
        const int32_t n = i + (c & 1);
        if (n == layer->n || (c > 1 && rows[1] == rows[0])) {
            continue;
        }
        int32_t value = layer->zero_point + pf_rescale(sums[c], pf_multiplier(layer->factor[n]), layer->shift);
        if (layer->entries == 256) {
            const int32_t index = PF_SATURATE(s8, value) + 128;
            value = layer->out_bytes == 1 ? ((const int8_t *)layer->table)[index] : ((const int16_t *)layer->table)[index];
        } else if (layer->entries == PF_RESIDUAL) {
            value = pf_added_s16(((int16_t *)(uintptr_t)rows[c / 2])[n], PF_SATURATE(s16, value));
        } else if (layer->entries != 0) {
            value = pf_interpolated(layer->table, PF_SATURATE(s16, value));
        }
        if (layer->out_bytes == 1) {
            ((int8_t *)(uintptr_t)rows[c / 2])[n] = PF_SATURATE(s8, value);
        } else {
            ((int16_t *)(uintptr_t)rows[c / 2])[n] = PF_SATURATE(s16, value);
        }
    }
}

/* Outputs i and i + second, and those behind them up to `stop`: two and two, `second` the same for all. */
static void outputs(pf_dsp_frame *frame, pf_dsp_ending *end, const pf_dsp_layer *layer, int32_t i, int32_t stop, int32_t second) {
    const int32_t bias[2] = {layer->bias[i], layer->bias[i]};
    const uint32_t factors = layer->factor[i] * 0x00010001u;
    const int32_t blocks = (layer->k + 31) / 32;
    frame->bias = second != 0 ? layer->bias + i : bias;
    frame->factor = second != 0 ? layer->factor + i : (const uint16_t *)(const void *)&factors;
    frame->bias_end = frame->bias + (second != 0 ? stop - i : 2);
    frame->weight = (const uint8_t *)layer->weight + i / 2 * frame->quads * layer->quad_bytes;
    frame->blocks = layer->block_multiplier != 0 ? layer->block_multiplier + i * blocks : 0;
    frame->second = second * blocks;
    end->column[0] = i * layer->out_bytes - frame->step;
    end->column[1] = end->column[0] + second * layer->out_bytes;
    pairs(frame);
}

/* `count` rows of x into quad layout at `a`, with what stands behind each pair; the end of them. */
static uint32_t *arrange(const pf_dsp_layer *layer, const char *x, char *y, int32_t count, uint32_t *a, uint32_t after,
                         int32_t first) {
    const int32_t k = layer->k, x_step = k * layer->in_bytes, y_step = layer->n * layer->out_bytes;
    const int are_words = ((uint32_t)(uintptr_t)x | (uint32_t)k) % 4u == 0u;
    for (int32_t r = 0; r < count; r += 2, x += 2 * x_step, y += 2 * y_step) {
        const int32_t second = r + 1 < count ? 1 : 0;
        int32_t done = 0, now = first;
        for (;; now = CHUNK) {
            const char *from = x + done * layer->in_bytes;
            if (are_words) {
                layer->pair_words(from, from + second * x_step, a, now / 4);
            } else {
                layer->pair_any(from, from + second * x_step, a, k - done < now ? k - done : now);
            }
            done += now;
            a += now;
            if (done >= k) {
                break;
            }
            *a++ = code(pf_dsp_linear_loop);
        }
        *a++ = r + 2 < count ? after : code(last);
        *a++ = (uint32_t)(uintptr_t)y;
        *a++ = (uint32_t)(uintptr_t)(y + second * y_step);
    }
    return a;
}

void pf_dsp_linear(const pf_dsp_layer *layer, const void *x_rows, void *y_rows, int32_t rows, void *scratch) {
    const char *x = x_rows, *table = layer->table;
    char *y = y_rows;
    if (rows <= layer->few_rows) {
        for (; rows > 0; rows--, x += layer->k * layer->in_bytes, y += layer->n * layer->out_bytes) {
            layer->one_row(layer, x, y, scratch);
        }
        return;
    }
    const int32_t n = layer->n, k = layer->k, words = quad_words(k), left = 32 - layer->shift;
    const int32_t first = (words - 1) % CHUNK + 1;
    uint32_t *const w = scratch;
    pf_dsp_ending *const end = (pf_dsp_ending *)(void *)(w + words);
    uint32_t *const a = (uint32_t *)(void *)(end + 1);
    pf_dsp_frame frame = {.w = w,
                          .a = a,
                          .step = 2 * layer->out_bytes,
                          .quads = words / 4,
                          .widen = layer->widen,
                          .entry = code(pf_dsp_linear_loop) + (uint32_t)(CHUNK - first) / 4u * GROUP_BYTES,
                          .end = code(pf_dsp_linear_end)};
    const int is_exact = left > layer->headroom;
    int32_t sums[4];
    end->finish = is_exact ? code(raw) : ending(layer->entries, layer->out_bytes, &table);
    end->after = left > 0 && !is_exact ? code(shifted) : end->finish;
    end->table = (uint32_t)(uintptr_t)(is_exact ? (const char *)sums : table);
    end->left = left;
    end->zero_point = layer->zero_point;
    const int32_t block = is_exact ? 2 : layer->block;
    for (int32_t count; rows > 0; rows -= count, x += count * k * layer->in_bytes, y += count * n * layer->out_bytes) {
        count = rows < block ? rows : block;
        const uint32_t *const a_end = arrange(layer, x, y, count, a, end->after, first);
        for (int32_t i = 0; i < n && is_exact; i += 2) {
            outputs(&frame, end, layer, i, i + 2, i + 1 < n ? 1 : 0);
            keep_exact(layer, sums, i, a_end - 2);
        }
        if (!is_exact) {
            if (n > 1) {
                outputs(&frame, end, layer, 0, n & ~1, 1);
            }
            if (n % 2 != 0) {
                outputs(&frame, end, layer, n - 1, n, 0);
            }
        }
    }
}
