/* What the files of the bootloader share: its messages, how long it listens, how it hands over. */
#ifndef PF_BOOT_BOOT_H
#define PF_BOOT_BOOT_H

#include <stdint.h>

#include "image.h"
#include "picoformer/requests.h"

#define PF_BOOT_VERSION 1u
#define PF_BOOT_STAY_MS 10000u /* how long it listens on after a request of its own */

enum pf_boot_message {
    PF_BOOT_IDENTIFY = 0x10,
    PF_BOOT_PAGES = 0x11,
    PF_BOOT_BEGIN = 0x12,
    PF_BOOT_WRITE = 0x13,
    PF_BOOT_FINISH = 0x14,
    PF_BOOT_START = 0x15
    /* PF_BOOT_ENTER, which firmware answers too, stands in picoformer/wire.h */
};

/* Statuses beside enum pf_image_state. */
#define PF_BOOT_NOT_WRITTEN 0x26u /* the memory does not hold what was written to it */
#define PF_BOOT_STARTING    0x27u /* a hello: the firmware, which it is for, is started now */

/* The time that is left to listen, counted while somebody asks whether it is over. */
void pf_clock_begin(void);
void pf_clock_set(uint32_t milliseconds);
int pf_clock_is_over(void);
void pf_clock_end(void);

extern const pf_slot pf_boot_slot;

/* A pf_answer. */
uint8_t pf_boot_answer(const pf_call *call, pf_reply *reply);

/* Whether a request asked to start what is in the slot, once. */
int pf_boot_is_start_asked(void);

/* Leave for the program whose vector table lies there, as if reset had led to it. */
void pf_boot_jump(uint32_t vectors) __attribute__((noreturn));

/* `was_asked_for`: the program that ran before wants the bootloader, so listen for longer. */
void pf_boot_main(int was_asked_for) __attribute__((noreturn));

#endif
