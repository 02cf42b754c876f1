/* Memory protection (Armv8-M PMSA): code is read-only, nothing may write to address 0 or to what lies below the stack.
 *
 * What runs off the stack itself is caught by the stack limit registers (startup.c) before it is written. */
#include "machine.h"

#if PF_HAS_STACK_LIMITS

#define MPU_TYPE  PF_REGISTER(0xE000ED90u)
#define MPU_CTRL  PF_REGISTER(0xE000ED94u)
#define MPU_RNR   PF_REGISTER(0xE000ED98u)
#define MPU_RBAR  PF_REGISTER(0xE000ED9Cu)
#define MPU_RLAR  PF_REGISTER(0xE000EDA0u)
#define MPU_MAIR0 PF_REGISTER(0xE000EDC0u)

#define READ_ONLY     (3u << 1)
#define NEVER_EXECUTE 1u
#define NORMAL_MEMORY 0xAAu /* attribute 0: write-through, allocated on reads */
#define NULL_BYTES    0x10000u

/* From `base` to before `end`, both multiples of 32; regions may not overlap in this architecture. */
static void region(uint32_t number, uint32_t base, uint32_t end, uint32_t attributes) {
    MPU_RNR = number;
    MPU_RBAR = base | attributes;
    MPU_RLAR = (end - 32u) | 1u;
}

void pf_mpu_init(void) {
    if (((MPU_TYPE >> 8) & 0xFFu) < 3u) return; /* the core was built without one */
    MPU_MAIR0 = NORMAL_MEMORY;
    region(0, (uint32_t)PF_CODE_ORIGIN, (uint32_t)PF_CODE_ORIGIN + (1u << PF_CODE_SIZE_LOG2), READ_ONLY);
#if PF_GUARD_SIZE_LOG2 /* 0: another memory region lies right below the stack */
    region(1, (uint32_t)(uintptr_t)pf_stack_limit - (1u << PF_GUARD_SIZE_LOG2), (uint32_t)(uintptr_t)pf_stack_limit,
           READ_ONLY | NEVER_EXECUTE);
#endif
#if PF_CODE_ORIGIN /* 0: address 0 is code and read-only already */
    region(2, 0u, PF_CODE_ORIGIN < NULL_BYTES ? PF_CODE_ORIGIN : NULL_BYTES, READ_ONLY | NEVER_EXECUTE);
#endif
    MPU_CTRL = 5u; /* on, with the default map behind it */
    __asm__ volatile("dsb\n isb" ::: "memory");
}

#else

typedef int pf_no_v8_memory_protection; /* ISO C wants at least one declaration */

#endif
