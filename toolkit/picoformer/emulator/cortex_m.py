"""A Cortex-M in this process: the exceptions and the semihosting that unicorn leaves to others."""

from __future__ import annotations

import struct
from typing import Any

from picoformer.emulator.choice import UNICORN_CORES
from picoformer.emulator.core import Core
from picoformer.emulator.image import Image
from picoformer.emulator.peripherals import WINDOW
from picoformer.targets import Target

_SYSTEM = 0xE000E000
_DEBUG = 0xE0001000
_CPUID, _SHCSR, _CFSR, _HFSR, _MMFAR, _BFAR = (_SYSTEM + n for n in (0xD00, 0xD24, 0xD28, 0xD2C, 0xD34, 0xD38))
_NMI, _HARD_FAULT, _MEM_MANAGE, _BUS_FAULT, _USAGE_FAULT = 2, 3, 4, 5, 6
_FIRST_INTERRUPT = 16
_FORCED = 1 << 30
_IACCVIOL, _DACCVIOL, _MSTKERR, _MMARVALID = 1 << 0, 1 << 1, 1 << 4, 1 << 7
_IBUSERR, _PRECISERR, _BFARVALID = 1 << 8, 1 << 9, 1 << 15
_UNDEFINSTR, _INVSTATE, _STKOF = 1 << 16, 1 << 17, 1 << 20
_FRAME = 32
_THREAD_MAIN, _THREAD_PROCESS = 0xFFFFFFF9, 0xFFFFFFFD
_NEVER_EXECUTED = 0x40000000  # from here on the default memory map forbids it
_PREFETCH_ABORT, _BREAKPOINT, _INVALID_STATE, _STACK_LIMIT = 3, 7, 18, 19  # unicorn's numbers
_SEMIHOSTING, _EXIT, _EXIT_EXTENDED = 0xBEAB, 0x18, 0x20
_EXIT_GOOD = 0x20026
_THUMB_32_BIT = (0x1D, 0x1E, 0x1F)  # the first five bits of an instruction of two halfwords


class CortexM(Core):
    """See Core. On a fault the registers are stacked and the fault status is filled in as the core does it."""

    saved = (*(f"R{number}" for number in range(13)), "LR", "SP")
    peripherals = range(0x40000000, 0x60000000)
    prefix = "UC_ARM_REG_"

    def __init__(self, image: Image, target: Target) -> None:
        super().__init__(image, target)
        self._has_fault_status = not target.cpu.startswith("cortex-m0")
        self._bark = _FIRST_INTERRUPT + target.watchdog.irq if target.watchdog.irq else _NMI
        self._data = target.region("data")
        null = range(min(target.region("code").origin, 0x10000))
        self._guards = (range(self._data.origin - target.guard_bytes, self._data.origin), null)
        for block in (_SYSTEM, _DEBUG):  # registers without a behaviour: no MPU, no counter of cycles
            self.engine.mem_map(block, WINDOW)
        self.set("SP", self.word(image.address("vectors")))
        self.set("PC", self.word(image.address("vectors") + 4) & ~1)

    def make(self) -> tuple[Any, Any]:
        """See Core."""
        from unicorn import arm_const

        uc, model = self.unicorn, getattr(arm_const, UNICORN_CORES[self.target.cpu])
        # With UC_MODE_MCLASS every model is a Cortex-M33.
        return uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB, cpu=model), arm_const

    def resume(self) -> int:
        """See Core."""
        return self.get("PC") | 1

    def bark(self) -> None:
        """See Core."""
        self._enter(self._bark, 0, 0)

    def count(self, code: bytes) -> int:
        """See Core."""
        at = found = 0
        while at < len(code):
            at += 4 if code[at + 1] >> 3 in _THUMB_32_BIT else 2
            found += 1
        return found

    def interrupted(self, number: int) -> None:
        """See Core."""
        if number == _BREAKPOINT and int.from_bytes(self.read(self.get("PC"), 2), "little") == _SEMIHOSTING:
            self._semihosting()
        elif number == _PREFETCH_ABORT:
            self._fetch_fault()
        elif number == _INVALID_STATE:
            self._enter(_USAGE_FAULT, _INVSTATE, 0)
        elif number == _STACK_LIMIT:
            self._enter(_USAGE_FAULT, _STKOF, 0)
        else:
            self._enter(_USAGE_FAULT, _UNDEFINSTR, 0)

    def _semihosting(self) -> None:
        operation, argument = self.get("R0"), self.get("R1")
        if operation == _EXIT_EXTENDED:
            reason, code = struct.unpack("<2I", self.read(argument, 8))
            self.exit_code = code if reason == _EXIT_GOOD else 1
        elif operation == _EXIT:
            self.exit_code = 0 if argument == _EXIT_GOOD else 1
        else:  # no console, no files
            self.set("R0", 0xFFFFFFFF)
            self.set("PC", self.get("PC") + 2)

    def _fetch_fault(self) -> None:
        forbidden = self.get("PC") >= _NEVER_EXECUTED
        self._enter(_MEM_MANAGE if forbidden else _BUS_FAULT, _IACCVIOL if forbidden else _IBUSERR, 0)

    def failed(self, error: int) -> None:
        """See Core."""
        uc = self.unicorn
        if error in (uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT):
            self._fetch_fault()
        elif self.bad_access is not None:
            access, address = self.bad_access
            protected = access in (uc.UC_MEM_WRITE_PROT, uc.UC_MEM_READ_PROT)
            if protected or any(address in guard for guard in self._guards):
                self._enter(_MEM_MANAGE, _DACCVIOL | _MMARVALID, address)
            else:
                self._enter(_BUS_FAULT, _PRECISERR | _BFARVALID, address)
        else:
            self._enter(_USAGE_FAULT, _UNDEFINSTR, 0)

    def _enter(self, exception: int, status: int, address: int) -> None:
        """Take an exception as the core does: stack eight registers, note the cause, go on in the handler."""
        pc = self.get("PC")
        if self.get("IPSR"):
            self.words = f"the core locked up: a fault at {pc:#010x}, inside its fault handler"
            return
        names = ("R0", "R1", "R2", "R3", "R12", "LR", "PC", "XPSR")
        frame = struct.pack("<8I", *map(self.get, names))
        sp = (self.get("SP") & ~7) - _FRAME
        if self._data.origin <= sp and sp + _FRAME <= self._data.end:
            self.write(sp, frame)
        elif status & _STKOF:
            sp = self._data.origin  # the limit, where Armv8-M leaves a stack that would go past it
        elif exception != self._bark:
            exception, status = _MEM_MANAGE, status | _MSTKERR
        if exception != self._bark:
            exception = self._note(exception, status, address) if self._has_fault_status else _HARD_FAULT
        uses_process_stack = self.get("CONTROL") & 2
        self.set("SP", sp)
        self.set("IPSR", exception)  # this brings the main stack
        self.set("LR", _THREAD_PROCESS if uses_process_stack else _THREAD_MAIN)
        self.set("PC", self.word(self.image.address("vectors") + 4 * exception) & ~1)

    def _note(self, exception: int, status: int, address: int) -> int:
        """Fill the fault status registers; the exception that is taken, HardFault where its own is not enabled."""
        self._put(_CFSR, status)
        if status & _MMARVALID:
            self._put(_MMFAR, address)
        if status & _BFARVALID:
            self._put(_BFAR, address)
        if not self.word(_SHCSR) >> (exception + 12) & 1:
            self._put(_HFSR, _FORCED)
            return _HARD_FAULT
        return exception

    def _put(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<I", value))
