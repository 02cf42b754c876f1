/* The loop of word_rows.h: five words of the vector and five of a row at a time, as many as there are registers for. */
#include "word_rows.h"

enum {
    WORDS = 5,        /* of a group */
    TURN = 16,        /* groups that the unrolled loop takes */
    GROUP_BYTES = 26, /* of its code */
};

/* Labels inside `pf_dsp_word_rows`. */
void pf_dsp_words_rest_1(void), pf_dsp_words_rest_2(void), pf_dsp_words_rest_3(void), pf_dsp_words_rest_4(void),
    pf_dsp_words_loop(void), pf_dsp_words_sum(void);

#define LABEL(NAME)   " .global " #NAME "\n .thumb_func\n" #NAME ":\n"
#define PRODUCT(W, X) " smlald r12, r11, " W ", " X "\n"
#define REST(N, W, X, PRODUCTS)                                                                                                  \
    LABEL(pf_dsp_words_rest_##N) " ldmia.n r0!, {" W "}\n ldmia.w r1!, {" X "}\n" PRODUCTS " ldr.w pc, [sp, #20]\n"

#define ENTER                                                                                                                    \
    " push {r4-r11, lr}\n sub sp, #64\n mov r2, sp\n ldmia.w r1!, {r3-r10}\n stmia.w r2!, {r3-r10}\n"                            \
    " ldmia.w r1, {r3-r10}\n stmia.w r2, {r3-r10}\n ldm.w sp, {r1, r11, r12, pc}\n"
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
#define LEAVE LABEL(pf_dsp_words_sum) " ldr.w pc, [sp, #24]\n" LABEL(pf_dsp_word_rows_end) " add sp, #64\n pop {r4-r11, pc}\n"

__attribute__((naked, noinline)) void pf_dsp_word_rows(const int16_t *row __attribute__((unused)),
                                                       const pf_dsp_word_frame *frame __attribute__((unused))) {
    __asm__ volatile(ENTER REST_4 REST_3 REST_2 REST_1 LOOP LEAVE);
}

static inline uint32_t code(void (*label)(void)) {
    return (uint32_t)(uintptr_t)label;
}

void pf_dsp_set_words(pf_dsp_word_frame *frame, const void *x, int32_t count) {
    static void (*const rests[WORDS])(void) = {0, pf_dsp_words_rest_1, pf_dsp_words_rest_2, pf_dsp_words_rest_3,
                                               pf_dsp_words_rest_4};
    const uint32_t groups = (uint32_t)count / WORDS, rest = (uint32_t)count % WORDS, first = (groups + TURN - 1u) % TURN;
    frame->x = x;
    frame->start[0] = frame->start[1] = 0;
    frame->x_end = (const uint32_t *)x + count;
    frame->entry = groups == 0u ? code(pf_dsp_words_sum) : code(pf_dsp_words_loop) + (TURN - 1u - first) * GROUP_BYTES;
    frame->begin = rest != 0u ? code(rests[rest]) : frame->entry;
}
