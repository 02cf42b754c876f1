/* One row of weights with six packed rows, for ARMv6-M: 10 instructions for six products. */
#ifndef PF_ARMV6M_PACKED_DOT_H
#define PF_ARMV6M_PACKED_DOT_H

#include <stdint.h>

/* The words' sums live in r8-r11, which ADD reaches; MULS writes over the packed numbers, so nothing is copied. */
#define PF_STEP(J)                                                                                                               \
    " ldrb r2, [r0, #" #J "]\n"                                                                                                  \
    " ldmia r1!, {r3-r6}\n"                                                                                                      \
    " muls r3, r2\n"                                                                                                             \
    " add r8, r3\n"                                                                                                              \
    " muls r4, r2\n"                                                                                                             \
    " add r9, r4\n"                                                                                                              \
    " muls r5, r2\n"                                                                                                             \
    " add r10, r5\n"                                                                                                             \
    " muls r6, r2\n"                                                                                                             \
    " add r11, r6\n"

/* pf_add_unpacked of two registers to the three sums at r0, which moves on. */
#define PF_ADD_UNPACKED(P, Q)                                                                                                    \
    " mov r1, " #P "\n"                                                                                                          \
    " mov r2, " #Q "\n"                                                                                                          \
    " lsls r3, r1, #11\n"                                                                                                        \
    " asrs r3, r3, #11\n"                                                                                                        \
    " subs r1, r1, r3\n"                                                                                                         \
    " asrs r1, r1, #21\n"                                                                                                        \
    " lsls r4, r1, #10\n"                                                                                                        \
    " subs r2, r2, r4\n"                                                                                                         \
    " lsls r5, r2, #11\n"                                                                                                        \
    " asrs r5, r5, #11\n"                                                                                                        \
    " subs r2, r2, r5\n"                                                                                                         \
    " asrs r2, r2, #10\n"                                                                                                        \
    " adds r4, r1, r2\n"                                                                                                         \
    " ldmia r0!, {r1, r2, r6}\n"                                                                                                 \
    " subs r0, #12\n"                                                                                                            \
    " adds r3, r3, r1\n"                                                                                                         \
    " adds r4, r4, r2\n"                                                                                                         \
    " adds r5, r5, r6\n"                                                                                                         \
    " stmia r0!, {r3-r5}\n"

/* In C:
 *     for (c = 0; c < 4; c++) { words[c] = a[c]; for (j = 0; j < count; j++) words[c] += w[j] * a[4 + 4 * j + c]; }
 *     pf_add_unpacked(words[0], words[1], sums);
 *     pf_add_unpacked(words[2], words[3], sums + 3); */
__attribute__((naked, noinline)) static void packed_dot(const uint8_t *w __attribute__((unused)),
                                                        const uint32_t *a __attribute__((unused)),
                                                        int32_t count __attribute__((unused)),
                                                        int32_t *sums __attribute__((unused))) {
    __asm__ volatile(".syntax unified\n"
                     " push {r4-r7, lr}\n"
                     " mov r4, r8\n"
                     " mov r5, r9\n"
                     " mov r6, r10\n"
                     " mov r7, r11\n"
                     " push {r3-r7}\n"
                     " adds r7, r0, r2\n"
                     " ldmia r1!, {r3-r6}\n"
                     " mov r8, r3\n"
                     " mov r9, r4\n"
                     " mov r10, r5\n"
                     " mov r11, r6\n"
                     "1:\n" PF_STEP(0) PF_STEP(1) PF_STEP(2) PF_STEP(3) PF_STEP(4) PF_STEP(5) PF_STEP(6)
                         PF_STEP(7) " adds r0, #8\n"
                                    " cmp r0, r7\n"
                                    " bne 1b\n"
                                    " pop {r0}\n" PF_ADD_UNPACKED(r8, r9) PF_ADD_UNPACKED(r10, r11) " pop {r4-r7}\n"
                                                                                                    " mov r8, r4\n"
                                                                                                    " mov r9, r5\n"
                                                                                                    " mov r10, r6\n"
                                                                                                    " mov r11, r7\n"
                                                                                                    " pop {r4-r7, pc}\n");
}

static inline void pf_packed_dot(const uint8_t *w, int32_t stride, const uint32_t *a, int32_t count, int32_t *sums) {
    (void)stride;
    packed_dot(w, a, count, sums);
}

#endif
