/* The linear layer of one row: what sums of two outputs end as, rescaled by one rounded high word, through a table or not, or
 * added to a residual. */
#include "linear_vector.h"

#include "picoformer/linear_output.h"

enum { KEPT = 16 }; /* outputs whose sums are kept at a time, where plain C makes the ending */

/* Endings: jumped to, not called. */
#define DEFINE_CODE(NAME, CODE)                                                                                                  \
    __attribute__((naked, noinline)) static void NAME(void) {                                                                    \
        __asm__ volatile(CODE);                                                                                                  \
    }

/* The way on: behind the last pair back to C. */
void pf_dsp_vector_end(void);
#define NEXT " beq.w pf_dsp_vector_end\n" PF_DSP_VECTOR_NEXT
__attribute__((naked, noinline)) void pf_dsp_vector_end(void) {
    __asm__ volatile(" add sp, #72\n pop {r4-r11, pc}\n");
}

/* In C: sum[i] += bias[i]; y[i] = clamp(zero_point + rescale(sum[i] << left)). lr shows the last words of the frame but two: r2
 * bias, r3 factors (see pf_multiplier), r4 y, r5 end, r6 zero point, r7 left, r8 table. */
#define SUMS                                                                                                                     \
    " add.w lr, sp, #36\n ldm.w lr, {r2-r8}\n ldrd r9, r11, [r2], #8\n add.w r12, r12, r9\n add.w r10, r10, r11\n"               \
    " ldrh r9, [r3], #2\n ldrh r11, [r3], #2\n and.w r1, r9, #15\n lsl.w r9, r9, r1\n and.w r1, r11, #15\n lsl.w r11, r11, r1\n"
#define SHIFT       " lsl.w r12, r12, r7\n lsl.w r10, r10, r7\n"
#define RESCALE     " smmlar r12, r12, r9, r6\n smmlar r10, r10, r11, r6\n"
#define LIMIT(BITS) " ssat r12, #" BITS ", r12\n ssat r10, #" BITS ", r10\n"
#define KEEP(STORE, STEP)                                                                                                        \
    " " STORE " r12, [r4], #" STEP "\n " STORE " r10, [r4], #" STEP "\n stm.w lr, {r2-r4}\n cmp r2, r5\n" NEXT
/* A table is read by its middle; the line between two entries as in interpolate.c. */
#define LINE(R, BITS)                                                                                                            \
    " asr.w r1, " R ", #7\n ldr.w r1, [r8, r1, lsl #1]\n and.w " R ", " R ", #127\n mla " R ", " R ", r9, r11\n"                 \
    " smlad " R ", " R ", r1, r7\n ssat " R ", #" BITS ", " R ", asr #7\n"
#define LINES(BITS) " movw r9, #65535\n mov.w r11, #128\n movs r7, #64\n" LINE("r12", BITS) LINE("r10", BITS)

#define DEFINE_ENDINGS(NAME, MORE, STORE, STEP)                                                                                  \
    DEFINE_CODE(NAME, SUMS RESCALE MORE KEEP(STORE, STEP))                                                                       \
    DEFINE_CODE(shifted_##NAME, SUMS SHIFT RESCALE MORE KEEP(STORE, STEP))

DEFINE_ENDINGS(plain_s8, LIMIT("8"), "strb", "1")
DEFINE_ENDINGS(plain_s16, LIMIT("16"), "strh", "2")
DEFINE_ENDINGS(added_s16, LIMIT("16") " ldrsh.w r9, [r4]\n ldrsh.w r11, [r4, #2]\n qadd16 r12, r12, r9\n qadd16 r10, r10, r11\n",
               "strh", "2")
DEFINE_ENDINGS(table_s8, LIMIT("8") " ldrsb.w r12, [r8, r12]\n ldrsb.w r10, [r8, r10]\n", "strb", "1")
DEFINE_ENDINGS(table_s16, LIMIT("8") " ldrsh.w r12, [r8, r12, lsl #1]\n ldrsh.w r10, [r8, r10, lsl #1]\n", "strh", "2")
DEFINE_ENDINGS(line_s8, LIMIT("16") LINES("8"), "strb", "1")
DEFINE_ENDINGS(line_s16, LIMIT("16") LINES("16"), "strh", "2")

__attribute__((naked, noinline)) void pf_dsp_vector_keep(void) {
    __asm__ volatile(" ldrd r2, r3, [sp, #44]\n strd r12, r9, [r2], #8\n strd r10, r11, [r2], #8\n str r2, [sp, #44]\n"
                     " cmp r2, r3\n" NEXT);
}

/* What sums end as; *table becomes the address of its entry for 0. */
static uint32_t ending(const pf_dsp_layer *layer, int32_t left, const char **table) {
    static void (*const all[4][2][2])(void) = {{{plain_s8, shifted_plain_s8}, {plain_s16, shifted_plain_s16}},
                                               {{table_s8, shifted_table_s8}, {table_s16, shifted_table_s16}},
                                               {{line_s8, shifted_line_s8}, {line_s16, shifted_line_s16}},
                                               {{0, 0}, {added_s16, shifted_added_s16}}};
    int32_t kind = layer->entries == PF_RESIDUAL ? 3 : 0;
    if (layer->entries > PF_RESIDUAL) {
        kind = layer->entries == 256 ? 1 : 2;
        *table += kind == 1 ? 128 * layer->out_bytes : 256 * 2;
    }
    return pf_dsp_code(all[kind][layer->out_bytes - 1][left > 0]);
}

/* Outputs whose sums take 64 bits, or 32 and may not be shifted left. */
__attribute__((noinline)) static void exact(const pf_dsp_layer *layer, const pf_dsp_vector_kernel *kernel,
                                            pf_dsp_vector_frame *frame, void *y) {
    int64_t sums[KEPT];
    frame->finish = kernel->keep;
    for (int32_t i = 0, count; i < layer->n; i += count) {
        const int32_t rest = layer->n - i;
        count = rest >= KEPT ? KEPT : rest > 1 ? rest & ~1 : 1;
        frame->second *= count > 1; /* nobody's multipliers are those of the last output */
        frame->y = sums;
        frame->end = sums + (count + 1) / 2 * 2;
        kernel->pairs((const char *)layer->weight + i / 2 * kernel->pair_bytes, frame);
        for (int32_t c = 0, o = i; c < count; c++, o++) {
            const int32_t value =
                layer->zero_point + pf_rescale_wide(layer->bias[o] + sums[c], pf_multiplier(layer->factor[o]), layer->shift);
            if (layer->out_bytes == 1) {
                int8_t *const to = (int8_t *)y + o;
                *to = pf_linear_s8(layer->table, layer->entries, *to, value);
            } else {
                int16_t *const to = (int16_t *)y + o;
                *to = pf_linear_s16(layer->table, layer->entries, *to, value);
            }
        }
        frame->blocks += KEPT * kernel->block_bytes;
    }
}

/* The last output where it is alone: what is computed beside it is nobody's. */
__attribute__((noinline)) static void alone(const pf_dsp_layer *layer, const pf_dsp_vector_kernel *kernel,
                                            pf_dsp_vector_frame *frame, void *y) {
    const int32_t last = layer->n - 1, bias[2] = {layer->bias[last], 0};
    const uint16_t factor[2] = {layer->factor[last], 0};
    int16_t two[2] = {0, 0};
    if (layer->entries == PF_RESIDUAL) {
        two[0] = ((const int16_t *)y)[last];
    }
    frame->bias = bias;
    frame->factor = factor;
    frame->end = bias + 2;
    frame->y = two;
    frame->blocks += last * kernel->block_bytes;
    frame->second = 0;
    kernel->pairs((const char *)layer->weight + last / 2 * kernel->pair_bytes, frame);
    if (layer->out_bytes == 1) {
        ((int8_t *)y)[last] = *(const int8_t *)two;
    } else {
        ((int16_t *)y)[last] = two[0];
    }
}

void pf_dsp_vector(const pf_dsp_layer *layer, const pf_dsp_vector_kernel *kernel, pf_dsp_vector_frame *frame, void *y,
                   int32_t is_exact) {
    const int32_t left = 32 - layer->shift;
    frame->blocks = layer->block_multiplier;
    if (is_exact || left > layer->headroom) {
        exact(layer, kernel, frame, y);
        return;
    }
    const char *table = layer->table;
    frame->finish = ending(layer, left, &table);
    frame->table = table;
    frame->zero_point = layer->zero_point;
    frame->left = left;
    if (layer->n > 1) {
        frame->bias = layer->bias;
        frame->factor = layer->factor;
        frame->end = layer->bias + (layer->n & ~1);
        frame->y = y;
        kernel->pairs(layer->weight, frame);
    }
    if (layer->n % 2 != 0) {
        alone(layer, kernel, frame, y);
    }
}
