/* Reset and traps: the stacks, then on to C. */
    .section .pf_vectors, "ax", %progbits
    .global pf_reset
    .type pf_reset, %function
pf_reset:
    csrw mie, zero
    la t0, pf_fault_stack_top
    csrw mscratch, t0
    la t0, pf_trap_entry
    csrw mtvec, t0
    la sp, pf_stack_top
    j pf_start
    .size pf_reset, . - pf_reset

/* Nothing comes back from here: the registers go to the top of the trap stack, which the program never uses. */
    .section .text.pf_trap_entry, "ax", %progbits
    .global pf_trap_entry
    .type pf_trap_entry, %function
    .balign 4
pf_trap_entry:
    csrrw sp, mscratch, sp
    addi sp, sp, -128
    .irp number, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sw x\number, 4 * \number (sp)
    .endr
    csrr t0, mscratch
    sw t0, 8(sp)
    mv a0, sp
    j pf_trap_report
    .size pf_trap_entry, . - pf_trap_entry
