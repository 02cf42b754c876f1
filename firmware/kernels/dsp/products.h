/* What the matrix kernels for SMLAD share: widening int8 to pairs of int16, and products of two rows with two columns.
 *
 * The quad layout: two vectors a and b of int8, filled up with zeros to a multiple of four, become words of two int16:
 *   (a0,a2) (a1,a3) (b0,b2) (b1,b3)  (a4,a6) (a5,a7) (b4,b6) (b5,b7) ...
 * which is the order SXTB16 leaves, the same on both sides of a product. Eight words, loaded with two LDM, feed eight SMLAD.
 */
#ifndef PF_DSP_PRODUCTS_H
#define PF_DSP_PRODUCTS_H

#include <stdint.h>

/* Words of two vectors in quad layout. */
static inline int32_t quad_words(int32_t count) {
    return (count + 3) / 4 * 4;
}

/* Bytes 0 and 2, or 1 and 3, of a word as two int16. */
static inline uint32_t even_bytes(uint32_t word) {
    uint32_t result;
    __asm__("sxtb16 %0, %1" : "=r"(result) : "r"(word));
    return result;
}
static inline uint32_t odd_bytes(uint32_t word) {
    uint32_t result;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));
    return result;
}

/* Up to four bytes of any alignment as a word, zeros behind them. */
static inline uint32_t load_bytes(const int8_t *bytes, int32_t count) {
    uint32_t word = 0;
    if (count >= 4) {
        __builtin_memcpy(&word, bytes, 4);
        return word;
    }
    for (int32_t i = 0; i < count; i++) {
        word |= (uint32_t)(uint8_t)bytes[i] << (8 * i);
    }
    return word;
}

/* Two vectors of `count` int8 into quad layout. */
__attribute__((noinline, unused)) static void widen_two(const int8_t *a, const int8_t *b, uint32_t *out, int32_t count) {
    int32_t i = 0;
    for (; i + 4 <= count; i += 4, out += 4) {
        const uint32_t first = load_bytes(a + i, 4), second = load_bytes(b + i, 4);
        out[0] = even_bytes(first);
        out[1] = odd_bytes(first);
        out[2] = even_bytes(second);
        out[3] = odd_bytes(second);
    }
    if (i < count) {
        const uint32_t first = load_bytes(a + i, count - i), second = load_bytes(b + i, count - i);
        out[0] = even_bytes(first);
        out[1] = odd_bytes(first);
        out[2] = even_bytes(second);
        out[3] = odd_bytes(second);
    }
}

/* `count` vectors, `stride` elements apart, two by two into quad layout; the partner of an odd last one is itself. */
__attribute__((noinline, unused)) static void widen_rows(const int8_t *x, int32_t stride, uint32_t *out, int32_t count,
                                                         int32_t size) {
    for (int32_t r = 0; r < count; r += 2, x += 2 * stride, out += quad_words(size)) {
        widen_two(x, r + 1 < count ? x + stride : x, out, size);
    }
}

/* The products of the two vectors at w with each pair of vectors from a to a_end, in C:
 *     do {
 *         sums[4] = {0};
 *         for (w = ...; w != w_end; w += 4, a += 4)
 *             sums[0] += w0 . a0, sums[1] += w1 . a0, sums[2] += w0 . a1, sums[3] += w1 . a1 over four elements;
 *         out <- sums;
 *     } while (a != a_end);
 * The inner loop is unrolled 16 times; `skip` is where the first turn enters it, so that any length comes out even. */
#define PF_QUAD_UNROLL 16
#define PF_QUAD_BYTES  40

typedef struct pf_products {
    const uint32_t *a, *w, *w_end, *a_end;
    uint32_t gap; /* bytes between the pairs of vectors at a; a_end lies behind the last gap */
    uint32_t skip;
    int32_t *out;
} pf_products;

/* Bytes of the unrolled body that the first turn leaves out, for vectors of `words` words. */
static inline uint32_t quad_skip(int32_t words) {
    const uint32_t rest = (uint32_t)words / 4u % PF_QUAD_UNROLL;
    return rest == 0u ? 0u : (PF_QUAD_UNROLL - rest) * PF_QUAD_BYTES;
}

/* r0: w, r1: a; sums in r10, r11 (first of a), r12, lr (second). Label 2 is the body, the word at sp + 4 is w_end. */
#define PF_QUAD_LOOP                                                                                                             \
    "2:\n .rept 16\n"                                                                                                            \
    " ldmia.w r0!, {r2-r5}\n ldmia.w r1!, {r6-r9}\n"                                                                             \
    " smlad r10, r2, r6, r10\n smlad r11, r4, r6, r11\n smlad r12, r2, r8, r12\n smlad lr, r4, r8, lr\n"                         \
    " smlad r10, r3, r7, r10\n smlad r11, r5, r7, r11\n smlad r12, r3, r9, r12\n smlad lr, r5, r9, lr\n"                         \
    " .endr\n"                                                                                                                   \
    " ldr r2, [sp, #4]\n cmp r0, r2\n bne 2b\n"

__attribute__((naked, noinline, unused)) static void pf_dsp_products(const pf_products *work __attribute__((unused))) {
    __asm__ volatile(" push {r4-r11, lr}\n"
                     " ldmia r0, {r1-r7}\n"
                     " adr.w r8, 2f\n"
                     " add r6, r6, r8\n"
                     " orr r6, r6, #1\n"
                     " push {r2-r7}\n" /* sp: w, w_end, a_end, gap, entry, out */
                     "1: mov r10, #0\n"
                     " mov r11, #0\n"
                     " mov r12, #0\n"
                     " mov lr, #0\n"
                     " ldr r0, [sp]\n"
                     " ldr.w pc, [sp, #16]\n" PF_QUAD_LOOP " ldr r2, [sp, #20]\n"
                     " stmia.w r2!, {r10, r11, r12, lr}\n"
                     " str r2, [sp, #20]\n"
                     " ldrd r2, r3, [sp, #8]\n"
                     " add r1, r1, r3\n"
                     " cmp r1, r2\n"
                     " bne.w 1b\n"
                     " add sp, #24\n"
                     " pop {r4-r11, pc}\n");
}

#endif
