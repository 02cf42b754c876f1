/* A linear layer on one row of int16, as a decode step has it: what linear_vector.c does with the sums that a kernel makes.
 *
 * A kernel makes sums of two outputs at a time in assembly and jumps to an ending; an ending jumps to the next pair. Both work on
 * a frame that lies at the stack pointer, 72 bytes. */
#ifndef PF_DSP_LINEAR_VECTOR_H
#define PF_DSP_LINEAR_VECTOR_H

#include <stdint.h>

#include "linear_strip.h"

typedef struct pf_dsp_vector_frame {
    const void *x; /* the first six words begin a pair: r1, r9 to r12, pc */
    uint32_t start[4];
    uint32_t begin;
    const void *x_end; /* the kernel's own */
    uint32_t entry;    /* the kernel's own */
    uint32_t finish;   /* where to go with the sums: in r12 and r10, without a bias; r0 shows the weights of the next pair */
    const int32_t *bias;
    const uint16_t *factor;
    void *y;
    const void *end; /* of the biases; where sums are kept, of y */
    int32_t zero_point, left;
    const void *table;
    const uint8_t *blocks; /* the kernel's own: block multipliers, and how far those of the second row lie behind */
    int32_t second;
} pf_dsp_vector_frame;
typedef char pf_dsp_vector_frame_is_as_the_code_reads_it[sizeof(pf_dsp_vector_frame) == 72 ? 1 : -1];

/* The first instructions of a kernel, a naked function of (weight, frame), and those of every pair. */
#define PF_DSP_VECTOR_BEGIN                                                                                                      \
    " push {r4-r11, lr}\n sub sp, #72\n mov r2, sp\n ldmia.w r1!, {r3-r11}\n stmia.w r2!, {r3-r11}\n"                            \
    " ldmia.w r1, {r3-r11}\n stmia.w r2, {r3-r11}\n" PF_DSP_VECTOR_NEXT
#define PF_DSP_VECTOR_NEXT " ldm.w sp, {r1, r9-r12, pc}\n"

/* Sums to y as they are, without a bias, 64 bits each, the first in r12, r9, the second in r10, r11: jumped to. */
void pf_dsp_vector_keep(void);

/* One kernel: its function, and the bytes of a pair of rows of the weight. */
typedef struct pf_dsp_vector_kernel {
    void (*pairs)(const void *weight, const pf_dsp_vector_frame *frame);
    uint32_t keep; /* the ending that keeps sums */
    int32_t pair_bytes, block_bytes;
} pf_dsp_vector_kernel;

/* All outputs of a row; x, start, begin, x_end, entry and second are there. `is_exact`: sums may not be shifted left. */
void pf_dsp_vector(const pf_dsp_layer *layer, const pf_dsp_vector_kernel *kernel, pf_dsp_vector_frame *frame, void *y,
                   int32_t is_exact);

/* Int8 weights, as joined_rows.h says they lie; scratch holds the row filled up to a multiple of four. `is_wide`: 32 bits were
 * not proven to be enough for a sum, where the headroom is 0. */
void pf_dsp_vector_joined(const pf_dsp_layer *layer, const int16_t *x, void *y, void *scratch, int32_t is_wide);

/* Int4 weights of the same order as for many rows on int16; scratch holds the row, and what stands between its blocks. */
void pf_dsp_vector_s4(const pf_dsp_layer *layer, const void *x, void *y, void *scratch);

static inline uint32_t pf_dsp_code(void (*label)(void)) {
    return (uint32_t)(uintptr_t)label;
}

#endif
