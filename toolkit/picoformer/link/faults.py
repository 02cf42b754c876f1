"""What a fault frame means, in one line for a person."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from picoformer.link.messages import Fault, TensorInfo

Symbolizer = Callable[[int], str]

_OVERFLOW, _BAD_JUMP, _HANG = 2, 3, 5
_KINDS = {
    0: "fault",
    1: "bad memory access",
    _OVERFLOW: "stack overflow",
    _BAD_JUMP: "call of a bad address",
    4: "undefined instruction",
    _HANG: "hang (watchdog)",
    6: "arithmetic fault",
}
_CORTEX_M = {2: "NMI", 3: "HardFault", 4: "MemManage", 5: "BusFault", 6: "UsageFault", 7: "SecureFault"}
_FIRST_INTERRUPT = 16
_RISCV = {
    0: "instruction address misaligned",
    1: "instruction access fault",
    2: "illegal instruction",
    3: "breakpoint",
    4: "load address misaligned",
    5: "load access fault",
    6: "store address misaligned",
    7: "store access fault",
    0x87: "machine timer interrupt",
}
"""mcause; an interrupt's number is 0x80 and more."""


def exception_name(fault: Fault, machine: str) -> str:
    """The name of the exception (Cortex-M), the signal (host) or the trap (RISC-V); `machine` is the target's port."""
    if machine == "host":
        try:
            return signal.Signals(fault.exception).name
        except ValueError:
            return f"signal {fault.exception}"
    if machine == "riscv":
        return _RISCV.get(fault.exception, f"trap {fault.exception}")
    if fault.exception >= _FIRST_INTERRUPT:
        return f"interrupt {fault.exception - _FIRST_INTERRUPT}"
    return _CORTEX_M.get(fault.exception, f"exception {fault.exception}")


def explain(fault: Fault, symbolize: Symbolizer | None, steps: Sequence[TensorInfo], machine: str) -> str:
    """One line: what happened, in which function and step, at which address, what helps; `machine`: the port."""

    def place(address: int) -> str:
        name = symbolize(address) if symbolize and address else ""
        return name or (f"code at {address:#010x}" if address else "an unknown function")

    what = _KINDS.get(fault.kind, f"fault of kind {fault.kind}")
    if fault.kind == _OVERFLOW:
        where = f"in {place(fault.pc or fault.lr)} or a function it calls; give the target a larger stack_bytes"
    elif fault.kind == _BAD_JUMP:
        where = f"({fault.pc:#010x}) from {place(fault.lr)}"
    elif fault.address:
        where = f"in {place(fault.pc)} at address {fault.address:#010x}"
    elif fault.kind == 1:
        where = f"in {place(fault.pc)} at address 0"
    elif fault.kind == _HANG:
        where = f"in {place(fault.pc)}: a step took longer than the target's watchdog allows"
    else:
        where = f"in {place(fault.pc)}"
    during = ""
    if fault.step is not None:
        label = f" ({steps[fault.step].name})" if fault.step < len(steps) else ""
        during = f", during step {fault.step}{label}"
    detail = f"{exception_name(fault, machine)}, pc {fault.pc:#010x}, lr {fault.lr:#010x}, sp {fault.sp:#010x}"
    if fault.cfsr or fault.hfsr:
        detail += f", cfsr {fault.cfsr:#010x}, hfsr {fault.hfsr:#010x}"
    return f"the device crashed: {what} {where}{during} [{detail}]"
