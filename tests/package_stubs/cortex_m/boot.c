/* Vectors, and what a core needs before the C library starts: its coprocessors on, if it has some. */
#include <stdint.h>

extern uint32_t stack_top;
void _start(void);
void reset(void);

void reset(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR */
    __asm__ volatile("dsb\n isb");
    _start();
}

typedef struct table {
    uint32_t *stack;
    void (*reset)(void);
} table;

__attribute__((section(".vectors"), used)) static const table vectors = {&stack_top, reset};
