/* Products of one vector of int16 with rows of int16 that follow one another, for SMLALD, both in words.
 *
 * The sum of a row takes 64 bits; what it becomes is an ending that is jumped to, and that jumps to the next row. */
#ifndef PF_DSP_WORD_ROWS_H
#define PF_DSP_WORD_ROWS_H

#include <stdint.h>

/* What `pf_dsp_word_rows` keeps on the stack: four words begin a row; what follows the first seven is the ending's. */
typedef struct pf_dsp_word_frame {
    const void *x;
    int32_t start[2];
    uint32_t begin; /* one of the rests, or `entry` */
    const void *x_end;
    uint32_t entry;  /* into the loop, or behind it */
    uint32_t finish; /* the ending: the sum is in r12, r11; r0 shows what lies behind the row */
    union {
        struct {
            const int32_t *bias;
            const uint16_t *factor;
            void *y;
            const void *end; /* of y */
            int32_t left, zero_point;
        } linear;
        struct {
            void *y;
            const void *end; /* of y */
            int32_t gap;     /* bytes from behind a row to the next */
            int32_t drop_half, drop, keep, multiplier, half, shift;
        } mean;
    } own;
} pf_dsp_word_frame;
typedef char pf_dsp_word_frame_is_as_the_code_reads_it[sizeof(pf_dsp_word_frame) == 64 ? 1 : -1];

/* How an ending goes on: with the next row, or where the flags say "equal" back to C. */
#define PF_DSP_NEXT_WORD_ROW " beq.w pf_dsp_word_rows_end\n ldm.w sp, {r1, r11, r12, pc}\n"
#define PF_DSP_WORD_OWN      "28" /* bytes from the stack pointer to `own` */

/* What concerns the vector in a frame; count: of words, 1 or more. */
void pf_dsp_set_words(pf_dsp_word_frame *frame, const void *x, int32_t count);

/* Every row: in C, for (sum = j = 0; j < 2 * count; j++) sum += row[j] * x[j]; */
void pf_dsp_word_rows(const int16_t *row, const pf_dsp_word_frame *frame);

#endif
