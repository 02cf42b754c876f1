/* Port to a native process: standard input and output are the wire, signals are the faults. */
#define _GNU_SOURCE /* the program counter inside a signal's context */
#include "picoformer/port.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "picoformer/wire.h"

#ifndef PF_WATCHDOG_SECONDS
#define PF_WATCHDOG_SECONDS 60u
#endif

static uint8_t input[4096], output[4096];
static size_t input_at, input_end, output_end;
static uint8_t signal_stack[65536];

int pf_port_received(void) {
    struct pollfd standard_input = {STDIN_FILENO, POLLIN, 0};
    return input_at < input_end || poll(&standard_input, 1, 0) > 0;
}

int pf_port_read(void) {
    if (input_at == input_end) {
        ssize_t got = read(STDIN_FILENO, input, sizeof input);
        if (got <= 0) return -1;
        input_at = 0;
        input_end = (size_t)got;
    }
    return input[input_at++];
}

void pf_port_flush(void) {
    size_t sent = 0;
    while (sent < output_end) {
        ssize_t wrote = write(STDOUT_FILENO, output + sent, output_end - sent);
        if (wrote <= 0) _exit(1); /* nobody is listening any more */
        sent += (size_t)wrote;
    }
    output_end = 0;
}

void pf_port_write(uint8_t byte) {
    if (output_end == sizeof output) pf_port_flush();
    output[output_end++] = byte;
}

void pf_port_exit(int status) {
    _exit(status);
}

void pf_port_watchdog(int on) {
    (void)alarm(on ? PF_WATCHDOG_SECONDS : 0u);
}

int pf_port_cycles(uint32_t *now) {
    *now = 0;
    return 0;
}

void pf_port_count_cycles(int on) {
    (void)on;
}

uint32_t pf_port_stack_bytes(void) {
    return PF_STACK_UNKNOWN;
}

uint32_t pf_port_stack_used(void) {
    return PF_STACK_UNKNOWN;
}

void pf_port_stack_forget(void) {}

void pf_port_call_init(void (*init)(void *state), void *state) {
    init(state);
}

int pf_port_call_step(int (*step)(void *state), void *state) {
    return step(state);
}

static void read_registers(const ucontext_t *context, pf_fault *fault) {
#if defined(__x86_64__)
    fault->pc = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
    fault->sp = (uint64_t)context->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    fault->pc = (uint64_t)context->uc_mcontext.pc;
    fault->sp = (uint64_t)context->uc_mcontext.sp;
    fault->lr = (uint64_t)context->uc_mcontext.regs[30];
#else
    (void)context; /* a fault is still named, without its place */
    (void)fault;
#endif
}

static void on_signal(int number, siginfo_t *info, void *context) {
    pf_fault fault;
    memset(&fault, 0, sizeof fault);
    (void)alarm(0);
    read_registers(context, &fault);
    fault.exception = (uint8_t)number;
    if (number == SIGALRM) {
        fault.kind = PF_FAULT_HANG;
    } else if (number == SIGILL) {
        fault.kind = PF_FAULT_UNDEFINED;
    } else if (number == SIGFPE) {
        fault.kind = PF_FAULT_ARITHMETIC;
    } else {
        uint64_t distance;
        fault.address = (uint64_t)(uintptr_t)info->si_addr;
        distance = fault.address > fault.sp ? fault.address - fault.sp : fault.sp - fault.address;
        fault.kind = PF_FAULT_MEMORY;
        if (fault.sp != 0 && distance < 65536u) {
            fault.kind = PF_FAULT_STACK_OVERFLOW;
        } else if (fault.pc == fault.address) {
            fault.kind = PF_FAULT_BAD_JUMP;
#if defined(__x86_64__)
            fault.lr = *(const uint64_t *)(uintptr_t)fault.sp; /* the call has just pushed it */
#endif
        }
    }
    pf_wire_fault(&fault);
    _exit(128 + number);
}

void pf_port_init(void) {
    static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM};
    struct sigaction action;
    stack_t own;

    memset(&own, 0, sizeof own);
    own.ss_sp = signal_stack;
    own.ss_size = sizeof signal_stack;
    (void)sigaltstack(&own, NULL);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++) (void)sigaction(caught[i], &action, NULL);
}
