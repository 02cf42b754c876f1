"""What C without a library needs to run on an emulated Cortex-M: a way out, and two functions that gcc calls."""

ASK = r"""
#include <stdint.h>
static uint32_t ask(uint32_t operation, const void *block)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
"""
"""`ask`: one semihosting operation of the Arm debugger, which QEMU answers (Arm semihosting specification)."""

MEMORY = r"""
#include <stddef.h>
void *memcpy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}
void *memset(void *to, int value, size_t n)
{
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = (char)value;
    return to;
}
"""
