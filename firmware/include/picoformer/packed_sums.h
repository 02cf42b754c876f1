/* Three sums of products in two words: for cores whose only multiplier is 32 by 32 to 32 bits.
 *
 * Three numbers x0, x1, x2 that meet the same weights are packed as p = x0 + 2^21 x1 and q = x2 + 2^10 x1, modulo 2^32. With
 * S = sum w x of each, sum w p = S0 + 2^21 S1 and sum w q = S2 + 2^10 S1: two products instead of three. Where every |S| < 2^20,
 * S0 and S2 are the low 21 bits, and what is left shows S1 = 2^11 h + l, first the 11 bits of l, then those of h. Sums of
 * PF_PACKED_CHUNK products are so small whatever the numbers: 64 * 127 * 128 < 2^20.
 *
 * Weights are stored with 128 added, so that a byte is loaded without its sign. sum (w + 128) p - 128 sum p is the same word:
 * six rows of numbers lie in scratch chunk by chunk, -128 sum p of the chunk's four words in front, then four words for each
 * k. */
#ifndef PICOFORMER_PACKED_SUMS_H
#define PICOFORMER_PACKED_SUMS_H

#include "picoformer/fixedpoint.h"

#define PF_PACKED_ROWS  6  /* rows that lie together */
#define PF_PACKED_CHUNK 64 /* products that one sum of three holds */
#define PF_PACKED_TURN  8  /* k is filled up to a multiple of it with zeros: weights of 128 */

/* k filled up; the words of six packed rows. */
static inline int32_t pf_packed_columns(int32_t k) {
    return (k + PF_PACKED_TURN - 1) / PF_PACKED_TURN * PF_PACKED_TURN;
}

static inline int32_t pf_packed_words(int32_t k) {
    const int32_t columns = pf_packed_columns(k);
    return 4 * (columns + (columns + PF_PACKED_CHUNK - 1) / PF_PACKED_CHUNK);
}

/* Three rows into every first and second word; `columns` of this chunk, `present` of them there. The first and the
 * third sum of each chunk come out lower by `lower`. */
static inline void pf_pack_three(const int8_t *x0, const int8_t *x1, const int8_t *x2, int32_t present, int32_t columns,
                                 uint32_t lower, uint32_t *out) {
    uint32_t sum_p = 0, sum_q = 0, *to = out + 4;
    for (int32_t j = 0; j < present; j++, to += 4) {
        const uint32_t middle = (uint32_t)(int32_t)x1[j];
        const uint32_t p = (uint32_t)(int32_t)x0[j] + (middle << 21), q = (uint32_t)(int32_t)x2[j] + (middle << 10);
        to[0] = p;
        to[1] = q;
        sum_p += p;
        sum_q += q;
    }
    for (int32_t j = present; j < columns; j++, to += 4) {
        to[0] = to[1] = 0;
    }
    out[0] = 0u - (sum_p << 7) - lower;
    out[1] = 0u - (sum_q << 7) - lower;
}

/* Up to six rows, `stride` elements apart; the place of those that are missing repeats the last. */
static inline void pf_pack_six(const int8_t *x, int32_t stride, int32_t rows, int32_t k, uint32_t lower, uint32_t *out) {
    const int8_t *row[PF_PACKED_ROWS];
    for (int32_t r = 0; r < PF_PACKED_ROWS; r++) {
        row[r] = x + (r < rows ? r : rows - 1) * stride;
    }
    for (int32_t start = 0; start < k; start += PF_PACKED_CHUNK) {
        const int32_t present = k - start < PF_PACKED_CHUNK ? k - start : PF_PACKED_CHUNK;
        const int32_t columns = pf_packed_columns(present);
        pf_pack_three(row[0] + start, row[1] + start, row[2] + start, present, columns, lower, out);
        pf_pack_three(row[3] + start, row[4] + start, row[5] + start, present, columns, lower, out + 2);
        out += 4 * (columns + 1);
    }
}

/* Adds the three sums that two words hold. */
static inline void pf_add_unpacked(uint32_t p, uint32_t q, int32_t *sums) {
    const int32_t first = (int32_t)(p << 11) >> 11;
    const int32_t low = (int32_t)(p - (uint32_t)first) >> 21;
    const uint32_t rest = q - ((uint32_t)low << 10);
    const int32_t third = (int32_t)(rest << 11) >> 11;
    const int32_t high = (int32_t)(rest - (uint32_t)third) >> 10;
    sums[0] += first;
    sums[1] += high + low;
    sums[2] += third;
}

/* Up to six rows of int16, `stride` elements apart, as words: first -2^bits times the sum of each, then a word for each k. They
 * lose `drop` bits. */
static inline void pf_six_words(const int16_t *x, int32_t stride, int32_t rows, int32_t k, int32_t drop, int32_t bits,
                                uint32_t *out) {
    for (int32_t r = 0; r < PF_PACKED_ROWS; r++) {
        const int16_t *row = x + (r < rows ? r : rows - 1) * stride;
        uint32_t total = 0, *to = out + r;
        for (int32_t j = 0; j < k; j++) {
            const uint32_t value = (uint32_t)pf_narrow(row[j], drop);
            total += value;
            *(to += PF_PACKED_ROWS) = value;
        }
        for (int32_t j = k; j < pf_packed_columns(k); j++) {
            *(to += PF_PACKED_ROWS) = 0;
        }
        out[r] = 0u - (total << bits);
    }
}

/* An instruction set's directory defines, in front of the files that put them together:
 *
 * PF_WEIGHT_ROWS, the rows of weights that pf_packed_dot takes at a time, `stride` bytes apart: with all their products over a
 * chunk of `count` columns, a multiple of PF_PACKED_TURN, it adds to the six sums of each row. void pf_packed_dot(const uint8_t
 * *w, int32_t stride, const uint32_t *a, int32_t count, int32_t *sums) for (r = 0; r < PF_WEIGHT_ROWS; r++) { for (c = 0; c < 4;
 * c++) words[c] = a[c] + sum of w[stride * r + j] * a[4 + 4 * j + c] over j < count; pf_add_unpacked(words[0], words[1], sums + 6
 * * r); pf_add_unpacked(words[2], words[3], sums + 6 * r + 3);
 *     }
 *
 * pf_dot_six_s8 and _s16, for numbers of more than 8 bits, six words in a row; w has bytes or halfwords; rows, stride and count
 * as above. void pf_dot_six_s8(const uint8_t *w, int32_t stride, const int32_t *a, int32_t count, int32_t *sums) for (r = 0; r <
 * PF_WEIGHT_ROWS; r++) for (c = 0; c < 6; c++) sums[6 * r + c] += sum of w[stride * r + j] * a[6 * j + c] over j < count
 *
 * pf_finish_six_s8, pf_finish_six_s16: six outputs, `step` elements apart.
 *     void pf_finish_six_s8(const int32_t *sums, const pf_finish *f, int8_t *y, int32_t step)
 *     for (c = 0; c < 6; c++)
 *         y[step * c] = clamp(f->zero_point + pf_rounded_high(sums[c] << f->left, f->multiplier)) */
typedef struct pf_finish {
    int32_t multiplier, left, zero_point; /* a sum shifted left stays below 2^29 */
} pf_finish;

/* The directory's PF_DEFINE_DOT_SIX_s8() or _s16(). */
#define PF_DEFINE_DOT_SIX_FOR(IN) PF_DEFINE_DOT_SIX_##IN()

/* pf_packed_dot over all columns. */
#define PF_DEFINE_PACKED_ROW()                                                                                                   \
    static inline void pf_packed_row(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t columns, int32_t *sums) {      \
        for (; columns > PF_PACKED_CHUNK; columns -= PF_PACKED_CHUNK) {                                                          \
            pf_packed_dot(w, stride, a, PF_PACKED_CHUNK, sums);                                                                  \
            w += PF_PACKED_CHUNK;                                                                                                \
            a += 4 * (PF_PACKED_CHUNK + 1);                                                                                      \
        }                                                                                                                        \
        pf_packed_dot(w, stride, a, columns, sums);                                                                              \
    }

#endif
