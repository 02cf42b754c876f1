/* The counted call: from pf_region_begin (the call itself) to just before pf_region_end (where it returns to). */
    .syntax unified
    .thumb
    .section .text.pf_port_call, "ax", %progbits
    .global pf_port_call_init, pf_port_call_step, pf_region_begin, pf_region_end
    .type pf_port_call_init, %function
    .type pf_port_call_step, %function

/* void pf_port_call_init(void (*init)(void *), void *state); int pf_port_call_step(int (*step)(void *), void *state) */
    .thumb_func
pf_port_call_init:
    .thumb_func
pf_port_call_step:
    push {r4, lr}
    movs r2, r0
    movs r0, r1
pf_region_begin:
    blx r2
pf_region_end:
    pop {r4, pc}
    .size pf_port_call_step, . - pf_port_call_step
    .size pf_port_call_init, . - pf_port_call_init
