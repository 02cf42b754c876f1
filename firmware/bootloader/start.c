/* From reset to main, and from the bootloader to the program behind it. */
#include "../port/cortex_m/machine.h"
#include "boot.h"
#include "picoformer/port.h"

#define SCB_ICSR     PF_REGISTER(0xE000ED04u)
#define NVIC_ICER(n) PF_REGISTER(0xE000E180u + 4u * (n))
#define NVIC_ICPR(n) PF_REGISTER(0xE000E280u + 4u * (n))
#if defined(__ARM_ARCH_6M__)
#define NVIC_WORDS 1u
#else
#define NVIC_WORDS 16u
#endif

/* Set by the linker script: the first words of RAM, where a program that wants the bootloader leaves a note. */
extern uint32_t pf_boot_note[], pf_boot_stack_top[], pf_boot_bss_start[], pf_boot_bss_end[];

void pf_boot_reset(void);
void pf_boot_start(void) __attribute__((noreturn));
void pf_boot_exception(void);

typedef void (*vector)(void);

#define EIGHT                                                                                                                    \
    pf_boot_exception, pf_boot_exception, pf_boot_exception, pf_boot_exception, pf_boot_exception, pf_boot_exception,            \
        pf_boot_exception, pf_boot_exception

__attribute__((section(".pf_vectors"), used, aligned(256))) static const struct {
    uint32_t *initial_stack;
    vector handlers[15 + 32];
} vectors = {
    pf_boot_stack_top,
    {pf_boot_reset, pf_boot_exception, pf_boot_exception, pf_boot_exception, pf_boot_exception, pf_boot_exception,
     pf_boot_exception, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT},
};

__attribute__((naked)) void pf_boot_reset(void) {
    __asm__ volatile(".syntax unified\n"
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
                     "ldr r0, =0xE000ED88\n" /* CPACR: a compiler may copy by floating-point registers */
                     "ldr r1, [r0]\n"
                     "movs r2, #15\n"
                     "lsls r2, r2, #20\n"
                     "orrs r1, r2\n"
                     "str r1, [r0]\n"
                     "dsb\n"
                     "isb\n"
#endif
                     "ldr r0, =pf_boot_stack_top\n"
                     "mov sp, r0\n"
                     "ldr r0, =pf_boot_start\n"
                     "bx r0\n"
                     ".ltorg\n");
}

/* Every exception but reset. The bootloader itself lets no interrupt through and has no fault to tell of: it starts anew.
 *
 * Where the vector table cannot be moved (Armv6-M) this one stays in force for the program behind the bootloader, so that its
 * exceptions come by here. Only r0 to r3 are used, which the core has stacked, and neither stack: the program's handler finds
 * all as if it had been entered itself. */
__attribute__((naked)) void pf_boot_exception(void) {
    __asm__ volatile(".syntax unified\n"
#if defined(__ARM_ARCH_6M__)
                     "mov r0, lr\n"
                     "movs r1, #4\n"
                     "tst r0, r1\n" /* on the process stack: the program's */
                     "bne 1f\n"
                     "mrs r0, msp\n"
                     "ldr r0, [r0, #24]\n" /* where it came from */
                     "ldr r1, =%c0\n"
                     "ldr r2, =%c2\n"
                     "subs r0, r1\n"
                     "cmp r0, r2\n"
                     "blo 2f\n"
                     "1: mrs r0, ipsr\n"
                     "lsls r0, r0, #2\n"
                     "ldr r1, =%c1\n"
                     "ldr r0, [r0, r1]\n"
                     "bx r0\n"
                     "2:\n"
#endif
                     "ldr r0, =0xE000ED0C\n" /* AIRCR: SYSRESETREQ */
                     "ldr r1, =0x05FA0004\n"
                     "dsb\n"
                     "str r1, [r0]\n"
                     "3: b 3b\n"
                     ".ltorg\n"
                     :
                     : "i"(PF_BOOT_ORIGIN), "i"(PF_SLOT_ORIGIN + PF_PAGE_BYTES), "i"(PF_SLOT_ORIGIN - PF_BOOT_ORIGIN));
}

void pf_boot_start(void) {
    volatile uint32_t *note = pf_boot_note;
    const int was_asked_for = note[0] == PF_BOOT_NOTE_0 && note[1] == PF_BOOT_NOTE_1;
    note[0] = note[1] = 0;
    for (volatile uint32_t *to = pf_boot_bss_start; to < pf_boot_bss_end;) *to++ = 0;
    pf_boot_main(was_asked_for);
}

void pf_boot_jump(uint32_t table) {
    const uint32_t *words = (const uint32_t *)(uintptr_t)table;
    __asm__ volatile("cpsid i" ::: "memory");
    for (uint32_t i = 0; i < NVIC_WORDS; i++) {
        NVIC_ICER(i) = 0xFFFFFFFFu;
        NVIC_ICPR(i) = 0xFFFFFFFFu;
    }
    SCB_ICSR = 1u << 27 | 1u << 25; /* PendSV and SysTick are not pending either */
#if !defined(__ARM_ARCH_6M__)
    SCB_VTOR = table;
#endif
    __asm__ volatile(".syntax unified\n"
                     "dsb\n"
                     "isb\n"
#if PF_HAS_STACK_LIMITS
                     "movs r2, #0\n"
                     "msr msplim, r2\n"
                     "msr psplim, r2\n"
#endif
                     "msr msp, %0\n"
                     "cpsie i\n"
                     "bx %1\n"
                     :
                     : "r"(words[0]), "r"(words[1])
                     : "r2", "memory");
    for (;;) {
    }
}
