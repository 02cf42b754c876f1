/* Sums that stay in their registers: without this gcc gathers the loads and products of many turns and runs out of them. */
#ifndef PF_WORD_KEEP_H
#define PF_WORD_KEEP_H

/* sum += a * b, by itself and now. */
#define PF_MULTIPLY_ADD(SUM, A, B)                                                                                               \
    do {                                                                                                                         \
        SUM += (A) * (B);                                                                                                        \
        __asm__("" : "+r"(SUM));                                                                                                 \
    } while (0)

/* Loads do not move from one side to the other. */
#define PF_KEEP_LOADS() __asm__ volatile("" ::: "memory")

#endif
