/* The counted call: from pf_region_begin (the call itself) to just before pf_region_end (where it returns to). */
    .section .text.pf_port_call, "ax", %progbits
    .global pf_port_call_init, pf_port_call_step, pf_region_begin, pf_region_end
    .type pf_port_call_init, %function
    .type pf_port_call_step, %function

/* void pf_port_call_init(void (*init)(void *), void *state); int pf_port_call_step(int (*step)(void *), void *state) */
pf_port_call_init:
pf_port_call_step:
    addi sp, sp, -16
    sw ra, 12(sp)
    mv t0, a0
    mv a0, a1
pf_region_begin:
    jalr t0
pf_region_end:
    lw ra, 12(sp)
    addi sp, sp, 16
    ret
    .size pf_port_call_step, . - pf_port_call_step
    .size pf_port_call_init, . - pf_port_call_init
