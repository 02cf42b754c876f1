"""A Cortex-M in this process, by unicorn: its memory, its peripherals, the exceptions that unicorn does not take."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from picoformer.emulator.choice import UNICORN_CORES
from picoformer.emulator.image import Image
from picoformer.emulator.peripherals import WINDOW, Peripheral, Watchdog
from picoformer.targets import MemoryRegion, Target

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
_PERIPHERALS = range(0x40000000, 0x60000000)
_NEVER_EXECUTED = 0x40000000  # from here on the default memory map forbids it
_PREFETCH_ABORT, _BREAKPOINT, _INVALID_STATE, _STACK_LIMIT = 3, 7, 18, 19  # unicorn's numbers
_SEMIHOSTING, _EXIT, _EXIT_EXTENDED = 0xBEAB, 0x18, 0x20
_EXIT_GOOD = 0x20026
_SLICE = 0.2  # seconds; an interrupt from the keyboard is seen in between


class CortexM:
    """A core that runs `image` on the board `target`; `exit_code` is set when the program has ended.

    The firmware's own handlers run on a fault and on the watchdog's expiry: what the core would do, from the stacked
    registers to the fault status, is done here, since unicorn stops there instead. Memory that holds code cannot be
    written, and below the stack there is none.
    """

    def __init__(self, image: Image, target: Target) -> None:
        import unicorn
        from unicorn import arm_const

        self.exit_code: int | None = None
        self.words = ""
        """Why it ended, where an exit code does not say it."""
        self._has_fault_status = not target.cpu.startswith("cortex-m0")
        self._image, self._watchdog = image, Watchdog(0, 1)
        self._bark = _FIRST_INTERRUPT + target.watchdog.irq if target.watchdog.irq else _NMI
        self._data = target.region("data")
        null = range(min(target.region("code").origin, 0x10000))
        self._guards = (range(self._data.origin - target.guard_bytes, self._data.origin), null)
        self._interrupt = 0
        self._bad_access: tuple[int, int] | None = None
        self._unicorn, self._registers = unicorn, arm_const
        # With UC_MODE_MCLASS every model is a Cortex-M33.
        self._core = unicorn.Uc(
            unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB, cpu=getattr(arm_const, UNICORN_CORES[target.cpu])
        )
        self._map(target.memory)
        self._core.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self._core.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_bad_access)
        for address, data in image.segments:
            self._core.mem_write(address, data)
        self.set("SP", self._word(image.address("vectors")))
        self.set("PC", self._word(image.address("vectors") + 4) & ~1)

    def _map(self, memory: list[MemoryRegion]) -> None:
        uc, end = self._unicorn, 0
        for region in sorted(memory, key=lambda r: r.origin):
            start = max(region.origin & -WINDOW, end)  # two small regions may share a page
            end = max(-(-region.end // WINDOW) * WINDOW, start)
            access = uc.UC_PROT_READ | uc.UC_PROT_EXEC if region.holds == "code" else uc.UC_PROT_ALL
            if end > start:
                self._core.mem_map(start, end - start, access)
        for block in (_SYSTEM, _DEBUG):  # registers without a behaviour: no MPU, no counter of cycles
            self._core.mem_map(block, WINDOW)

    def attach(self, base: int, peripheral: Peripheral) -> None:
        """Put a peripheral at an address."""
        if isinstance(peripheral, Watchdog):
            self._watchdog = peripheral
        self._core.mmio_map(
            base & -WINDOW,
            WINDOW,
            lambda uc, offset, size, user: peripheral.read(offset - base % WINDOW),
            None,
            lambda uc, offset, size, value, user: peripheral.write(offset - base % WINDOW, value),
            None,
        )

    def call_at(self, address: int, hook: Callable[[], None]) -> None:
        """Call `hook` whenever the instruction at `address` is about to run."""
        self._core.hook_add(self._unicorn.UC_HOOK_CODE, lambda uc, at, size, user: hook(), begin=address, end=address)

    def call_at_blocks(self, hook: Callable[[int, int], None]) -> None:
        """Call `hook` with address and bytes of each run of instructions that is about to be executed to its end."""
        self._core.hook_add(self._unicorn.UC_HOOK_BLOCK, lambda uc, at, size, user: hook(at, size))

    def get(self, register: str) -> int:
        """A register's content."""
        return int(self._core.reg_read(getattr(self._registers, f"UC_ARM_REG_{register}")))

    def set(self, register: str, value: int) -> None:
        """Set a register."""
        self._core.reg_write(getattr(self._registers, f"UC_ARM_REG_{register}"), value)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        return bytes(self._core.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Set bytes of memory."""
        self._core.mem_write(address, data)

    def _word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def stop(self) -> None:
        """Stop at the next opportunity; for hooks and peripherals."""
        self._core.emu_stop()

    def run(self, seconds: float, until: Callable[[], bool]) -> None:
        """Go on until the program ended, `until` says so (it is asked after each `stop`), or the time is over."""
        end = time.monotonic() + seconds
        while self.exit_code is None and not self.words:
            left = min(end - time.monotonic(), _SLICE, self._watchdog.left or _SLICE)
            begin = time.monotonic()
            self.run_to(0xFFFFFFFE, max(left, 1e-3))
            if self.exit_code is None and self._watchdog.ran(time.monotonic() - begin):
                self._enter(self._bark, 0, 0)
            if until() or time.monotonic() >= end:
                return

    def run_to(self, address: int, seconds: float = 0) -> None:
        """Go on until the instruction at `address` is next, a stop, or the time is over (0: never)."""
        self._interrupt, self._bad_access = 0, None
        try:
            self._core.emu_start(self.get("PC") | 1, address, timeout=int(seconds * 1e6))
        except self._unicorn.UcError as error:
            self._fault(error.errno)
        if self._interrupt:
            self._exception(self._interrupt)

    def _on_interrupt(self, uc: Any, number: int, user: Any) -> None:
        self._interrupt = number
        uc.emu_stop()

    def _on_bad_access(self, uc: Any, access: int, address: int, size: int, value: int, user: Any) -> bool:
        if address in _PERIPHERALS and access in (
            self._unicorn.UC_MEM_READ_UNMAPPED,
            self._unicorn.UC_MEM_WRITE_UNMAPPED,
        ):
            uc.mem_map(address & -WINDOW, WINDOW)  # clocks and pins: registers that keep what is written
            return True
        self._bad_access = access, address
        return False

    def _exception(self, number: int) -> None:
        """What unicorn calls an interrupt: a call of the debugger, or a fault that it names by a number."""
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

    def _fault(self, number: int) -> None:
        """An error of unicorn's as the exception that the core takes."""
        uc = self._unicorn
        if number in (uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT):
            self._fetch_fault()
        elif self._bad_access is not None:
            access, address = self._bad_access
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
        self.set("PC", self._word(self._image.address("vectors") + 4 * exception) & ~1)

    def _note(self, exception: int, status: int, address: int) -> int:
        """Fill the fault status registers; the exception that is taken, HardFault where its own is not enabled."""
        self._put(_CFSR, status)
        if status & _MMARVALID:
            self._put(_MMFAR, address)
        if status & _BFARVALID:
            self._put(_BFAR, address)
        if not self._word(_SHCSR) >> (exception + 12) & 1:
            self._put(_HFSR, _FORCED)
            return _HARD_FAULT
        return exception

    def _put(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<I", value))
