/* Memory protection (PMSA of Armv7-M, and of an Armv6-M that has it, a Cortex-M0+): code is read-only, nothing may touch
 * what lies below the stack or at a null pointer. */
#include "machine.h"

#if defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_7M__) || defined(__ARM_ARCH_7EM__)

#define MPU_TYPE PF_REGISTER(0xE000ED90u)
#define MPU_CTRL PF_REGISTER(0xE000ED94u)
#define MPU_RNR  PF_REGISTER(0xE000ED98u)
#define MPU_RBAR PF_REGISTER(0xE000ED9Cu)
#define MPU_RASR PF_REGISTER(0xE000EDA0u)

#define READ_ONLY     (6u << 24)
#define NO_ACCESS     (0u << 24)
#define NEVER_EXECUTE (1u << 28)
#define NORMAL_MEMORY (2u << 16) /* cacheable, write-through, not shared */

/* `size_log2`: 5 to 32; `base` is a multiple of the size. */
static void region(uint32_t number, uint32_t base, uint32_t size_log2, uint32_t attributes) {
    MPU_RNR = number;
    MPU_RBAR = base;
    MPU_RASR = attributes | (size_log2 - 1u) << 1 | 1u;
}

void pf_mpu_init(void) {
    if (((MPU_TYPE >> 8) & 0xFFu) < 2u) return; /* the core was built without one */
    region(0, (uint32_t)PF_CODE_ORIGIN, PF_CODE_SIZE_LOG2, READ_ONLY | NORMAL_MEMORY);
#if PF_GUARD_SIZE_LOG2 >= 8 /* the least there is on Armv6-M; 0: another memory region lies right below the stack */
    region(1, (uint32_t)(uintptr_t)pf_stack_limit - (1u << PF_GUARD_SIZE_LOG2), PF_GUARD_SIZE_LOG2, NO_ACCESS | NEVER_EXECUTE);
#endif
#if PF_NULL_GUARD /* nothing of the program's lies at address 0 */
    region(2, 0, 12, NO_ACCESS | NEVER_EXECUTE);
#endif
    MPU_CTRL = 5u; /* on, with the default map behind it */
    __asm__ volatile("dsb\n isb" ::: "memory");
}

#elif !PF_HAS_STACK_LIMITS /* Armv8-M: mpu_v8.c */

void pf_mpu_init(void) {}

#else

typedef int pf_no_v7_memory_protection; /* ISO C wants at least one declaration */

#endif
