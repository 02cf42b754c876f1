/* The seam between the device runtime and a machine: every port defines exactly these functions. */
#ifndef PICOFORMER_PORT_H
#define PICOFORMER_PORT_H

#include <stdint.h>

#define PF_STACK_UNKNOWN 0xFFFFFFFFu

/* Bring up the byte pipe and whatever traps faults. Called once, before anything else below. */
void pf_port_init(void);

/* The next byte from the host, waiting for it; -1 when the host has gone for good. */
int pf_port_read(void);

/* Whether a byte from the host waits to be read, or the host has gone; does not wait. */
int pf_port_received(void);

/* Queue or send one byte; pf_port_flush returns once all queued bytes are on their way. */
void pf_port_write(uint8_t byte);
void pf_port_flush(void);

/* End the program. On a machine that cannot end, stops or resets. */
void pf_port_exit(int status) __attribute__((noreturn));

/* on = 1: from now, one step may take as long as the target states; then a fault frame says "hang". */
void pf_port_watchdog(int on);

#ifdef PF_BEHIND_BOOTLOADER
/* Reset into the bootloader, which then listens for longer than after other resets. */
void pf_port_enter_bootloader(void) __attribute__((noreturn));
#endif

/* The note that asks a bootloader to do so, in the first two words of RAM. */
#define PF_BOOT_NOTE_0 0x746F6F62u
#define PF_BOOT_NOTE_1 0x8B90909Du

/* 1 and the cycle counter in *now, or 0 where the machine has none. One that costs anything while it runs does so only between
 * pf_port_count_cycles(1) and pf_port_count_cycles(0), and stands still otherwise. */
int pf_port_cycles(uint32_t *now);
void pf_port_count_cycles(int on);

/* Bytes reserved for the stack and the most that were ever in use; PF_STACK_UNKNOWN where not known. */
uint32_t pf_port_stack_bytes(void);
uint32_t pf_port_stack_used(void);

/* Forget the high-water mark: what lies below the caller's frame counts as unused again. */
void pf_port_stack_forget(void);

/* The two counted regions. A port that can be counted calls between the labels pf_region_begin and
 * pf_region_end, so that the call, all that runs inside it and its return are the region, nothing else. */
void pf_port_call_init(void (*init)(void *state), void *state);
int pf_port_call_step(int (*step)(void *state), void *state);

#endif
