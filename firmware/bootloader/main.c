/* Listen for a while, then start what is in the slot if it is whole; else listen on. */
#include "../port/cortex_m/machine.h"
#include "boot.h"
#include "picoformer/port.h"

#define SENT_MS 2u /* until the last byte has left the UART */

const pf_slot pf_boot_slot = {
    (const uint8_t *)(uintptr_t)PF_SLOT_ORIGIN,
    PF_SLOT_ORIGIN,
    PF_SLOT_BYTES,
    PF_PAGE_BYTES,
    PF_RAM_ORIGIN,
    PF_RAM_BYTES,
    PF_BOOT_TARGET,
};

/* The bytes that frames are made of; gone is who says nothing in time. What comes after a request to start is the firmware's. */
int pf_port_read(void) {
    if (pf_boot_is_start_asked()) return -1;
    while (!pf_uart_received())
        if (pf_clock_is_over()) return -1;
    return pf_uart_read();
}

void pf_port_write(uint8_t byte) {
    pf_uart_write(byte);
}

void pf_port_flush(void) {}

static void start(void) {
    pf_clock_set(SENT_MS);
    while (!pf_clock_is_over()) {
    }
    pf_clock_end();
    pf_boot_jump(PF_SLOT_ORIGIN + PF_PAGE_BYTES);
}

void pf_boot_main(int was_asked_for) {
    pf_uart_init();
    pf_clock_begin();
    pf_clock_set(was_asked_for ? PF_BOOT_STAY_MS : PF_BOOT_WINDOW_MS);
    pf_serve_requests("bootloader of " PF_BOOT_TARGET, pf_boot_answer);
    for (;;) {
        if (pf_image_verify(&pf_boot_slot, (const pf_image_header *)(const void *)pf_boot_slot.memory) == PF_IMAGE_VALID) start();
        pf_clock_set(PF_BOOT_STAY_MS);
        while (pf_serve_request(pf_boot_answer)) {
        }
    }
}
